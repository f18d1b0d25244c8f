"""``engine plan`` on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from engine.entrypoints.planning.estimate import Option
from engine.entrypoints.planning.plan import Plan
from engine.entrypoints.terminal import wrapped

GB = 1e9


def print_plan(plan: Plan, out: Console) -> None:
    shape, device, work = plan.shape, plan.device, plan.workload
    out.print(
        wrapped(
            f"{plan.model}: {shape.params / 1e6:,.0f} M weights, "
            f"{shape.token_flop / 1e9:.3g} GFLOP a token, pairs of up to {plan.max_len} tokens."
        )
    )
    if shape.stored is not None:
        words = f"{shape.stored.words} ({shape.stored.bits:.2f} bits a weight)"
        out.print(wrapped(f"Its linear layers are stored as {words}."))
    rates = ", ".join(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in device.rates.items())
    out.print(
        wrapped(
            f"{plan.num_devices} x {device.name}: {device.memory_bytes / GB:.0f} GB, "
            f"{device.bandwidth / 1e12:.2g} TB/s, {rates} ({device.source})."
        )
    )
    out.print(
        wrapped(
            f"A call: {work.documents} documents of {work.document_tokens} tokens after {work.query_tokens} of "
            f"template and query, {work.computed_tokens(shape, plan.max_len):,} computed tokens."
        )
    )
    out.print()
    table = Table(box=None, pad_edge=False)
    for name in ("precision", "devices", "weights", "keys, values", "step", "fits", "tokens/s", "pairs/s", "one call"):
        table.add_column(name, justify="left" if name in ("precision", "fits") else "right")
    for option in plan.options:
        table.add_row(*_row(option), style="bold" if option is plan.chosen and option.fits else None)
    out.print(table)
    out.print()
    for note in plan.notes:
        out.print(wrapped(note))
    if plan.chosen.fits:
        out.print(wrapped(f"engine serve {' '.join(plan.flags)}"))


def _row(option: Option) -> list[str]:
    replicas = f"{option.data_parallel_size} x {option.tensor_parallel_size}" if option.fits else "-"
    memory = [f"{size / GB:.2f} GB" for size in (option.weight_bytes, option.kv_bytes, option.step_bytes)]
    if not option.fits:
        return [option.quantization or option.dtype, replicas, *memory, "no", "-", "-", "-"]
    bound = "" if option.bound == "compute" else f", {option.bound} bound"
    speeds = [f"{option.tokens_per_s:,.0f}", _rate(option.pairs_per_s), _seconds(option.call_s)]
    return [option.quantization or option.dtype, replicas, *memory, f"yes{bound}", *speeds]


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
