"""``engine plan`` on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from engine.entrypoints.planning.estimate import Option
from engine.entrypoints.planning.plan import Plan
from engine.entrypoints.terminal import print_columns, wrapped

GB = 1e9
COLUMNS = ("precision", "devices", "weights", "KV", "step", "fits", "tokens/s", "pairs/s", "one call")


def print_plan(plan: Plan, out: Console) -> None:
    shape, device, work = plan.shape, plan.device, plan.workload
    out.print(
        wrapped(
            f"{plan.model}: {shape.params / 1e6:,.0f} million weights, "
            f"{shape.token_flop / 1e9:.3g} GFLOP a token, pairs of up to {plan.max_len:,} tokens."
        )
    )
    if shape.stored is not None:
        words = f"{shape.stored.words} ({shape.stored.bits:.2f} bits a weight)"
        out.print(wrapped(f"Its linear layers are stored as {words}."))
    rates = ", ".join(f"{kind} {_tera(rate)}FLOP/s" for kind, rate in device.rates.items())
    out.print(
        wrapped(
            f"{plan.num_devices} x {device.name}: {device.memory_bytes / GB:.0f} GB, "
            f"{_tera(device.bandwidth)}B/s, {rates} ({device.source})."
        )
    )
    out.print(
        wrapped(
            f"A call: {work.documents} documents of {work.document_tokens} tokens after {work.query_tokens} of "
            f"template and query, {work.computed_tokens(shape, plan.max_len):,} computed tokens."
        )
    )
    out.print()
    chosen = [option is plan.chosen and option.fits for option in plan.options]
    rows = [
        [Text(cell, "bold" if bold else "") for cell in _row(option)]
        for option, bold in zip(plan.options, chosen, strict=True)
    ]
    print_columns(out, COLUMNS, rows, right=[name for name in COLUMNS if name not in ("precision", "fits")])
    out.print()
    for note in plan.notes:
        out.print(wrapped(note))
    if plan.chosen.fits:
        out.print(wrapped(f"To start it: engine serve {' '.join(plan.flags)}"))


def _row(option: Option) -> list[str]:
    replicas = f"{option.data_parallel_size} x {option.tensor_parallel_size}" if option.fits else "-"
    memory = [f"{size / GB:.2f} GB" for size in (option.weight_bytes, option.kv_bytes, option.step_bytes)]
    if not option.fits:
        return [option.quantization or option.dtype, replicas, *memory, "no", "-", "-", "-"]
    bound = "" if option.bound == "compute" else f", {option.bound} bound"
    speeds = [f"{option.tokens_per_s:,.0f}", _rate(option.pairs_per_s), _seconds(option.call_s)]
    return [option.quantization or option.dtype, replicas, *memory, f"yes{bound}", *speeds]


def _tera(value: float) -> str:
    """``1.5 T`` or ``23.5 G``, whichever is readable."""
    return f"{value / 1e12:.3g} T" if value >= 1e12 else f"{value / 1e9:.3g} G"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
