"""``--profile FOLDER``: where the time of the steps goes, op by op.

Every op of a worker is timed; a device that works on its own is waited for around each, and records no graphs, so the
sum is a little more than a step takes otherwise. The worker writes, now and then and when it closes:

* ``ops-<rank>.md`` and ``.json``: calls, seconds, share of the time, GFLOP/s, share of the ceiling;
* ``trace-<rank>.json``: the first ``MAX_EVENTS`` events, for Perfetto or chrome://tracing.

Operations are counted from the shapes: two for each multiply-add of a product or of attention, none for the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from engine.backends.base import Backend
from engine.errors import ConfigError
from engine.kernels.ops import AttentionMeta, Ops
from engine.step import ModelRunnerOutput, SchedulerOutput

MAX_EVENTS = 50_000
SAVE_EVERY_S = 10.0
LINEAR = ("linear", "linear_residual", "linear_swiglu", "linear_geglu", "linear_gelu")
TIMED = (*LINEAR, "rms_norm", "add_rms_norm", "layer_norm", "qk_norm_rope", "attention", "score")


@dataclass
class OpTotal:
    calls: int = 0
    seconds: float = 0.0
    gflop: float = 0.0


def linear_gflop(arguments: tuple[Any, ...]) -> float:
    """2 x rows x inputs x outputs."""
    x, weight = arguments[:2]
    rows = x.shape[0] if hasattr(x, "shape") else x.rows
    return 2e-9 * rows * weight.in_features * weight.out_features


def attention_gflop(q: Any, meta: AttentionMeta) -> float:
    """4 x heads x head size for each (query, key) that meet: once for the score, once for the value."""
    own = meta.q_lens * meta.own_lens
    if meta.causal:
        own = own - meta.q_lens * (meta.q_lens - 1) // 2
    seen = meta.context_ids >= 0
    context = int((meta.q_lens[seen] * meta.context_lens[meta.context_ids[seen]]).sum())
    return 4e-9 * float(q.shape[1] * q.shape[2]) * (int(own.sum()) + context)


class Profiler:
    """Totals and events of one worker."""

    def __init__(self, folder: str, rank: int, backend: Backend, device: Any) -> None:
        """Raises ``ConfigError`` where the folder of the profile cannot be written to."""
        self._folder, self._rank, self._backend, self._device = Path(folder), rank, backend, device
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"--profile {folder}: {error.strerror}; name a folder that can be made and written to"
            raise ConfigError(message, param="profile") from None
        self._ops: Ops | None = None
        self._ceilings: dict[str, float] = {}
        self.reset()

    def watch(self, ops: Ops) -> Ops:
        self._ops = ops
        return cast(Ops, ProfiledOps(ops, self))  # it passes on what it does not time

    def reset(self) -> None:
        """Forget what was recorded (the steps of the start, which are not the user's)."""
        self._totals: dict[str, OpTotal] = {}
        self._events: list[dict[str, Any]] = []
        self._steps = OpTotal()
        self._tokens = 0
        self._saved_s = time.perf_counter()

    def record(self, name: str, started_s: float, gflop: float, **arguments: Any) -> None:
        seconds = time.perf_counter() - started_s
        total = self._totals.setdefault(name, OpTotal())
        total.calls += 1
        total.seconds += seconds
        total.gflop += gflop
        self._event(name, started_s, seconds, 1, arguments | {"gflop": gflop})

    def step(
        self, scheduler_output: SchedulerOutput, result: Callable[[], ModelRunnerOutput]
    ) -> Callable[[], ModelRunnerOutput]:
        """The same result, with its step recorded when it is there."""

        def finish() -> ModelRunnerOutput:
            output = result()
            done_s = time.perf_counter()
            self._steps.calls += 1
            self._steps.seconds += output.device_s
            self._tokens += scheduler_output.num_tokens
            self._event(
                f"step {scheduler_output.step_id}",
                done_s - output.device_s,
                output.device_s,
                0,
                {"tokens": scheduler_output.num_tokens},
            )
            if done_s - self._saved_s > SAVE_EVERY_S:
                self.save()
            return output

        return finish

    def _event(self, name: str, started_s: float, seconds: float, row: int, arguments: dict[str, Any]) -> None:
        if len(self._events) < MAX_EVENTS:
            event = {"name": name, "ph": "X", "ts": 1e6 * started_s, "dur": 1e6 * seconds, "args": arguments}
            self._events.append(event | {"pid": self._rank, "tid": row})

    def synchronize(self) -> None:
        self._backend.synchronize(self._device)

    def save(self) -> None:
        # The best seen: a busy machine shows less.
        for kind, value in (self._backend.ceilings(self._ops) if self._ops else {}).items():
            self._ceilings[kind] = max(value, self._ceilings.get(kind, 0.0))
        report = self.report()
        for name, text in (
            (f"ops-{self._rank}.json", json.dumps(report, indent=1)),
            (f"ops-{self._rank}.md", render(report)),
            (f"trace-{self._rank}.json", json.dumps({"traceEvents": self._events})),
        ):
            (self._folder / name).write_text(text)
        self._saved_s = time.perf_counter()

    def report(self) -> dict[str, Any]:
        ops = {name: asdict(total) for name, total in sorted(self._totals.items(), key=lambda item: -item[1].seconds)}
        rest = self._steps.seconds - sum(total.seconds for total in self._totals.values())
        return {
            "steps": self._steps.calls,
            "tokens": self._tokens,
            "seconds": self._steps.seconds,
            "ops": ops,
            "rest_seconds": rest,
            "ceilings": self._ceilings,
        }


def render(report: dict[str, Any]) -> str:
    """The table, in Markdown. The ceiling of an op is that of its arithmetic, in G(FL)OP/s of the whole device."""
    seconds = report["seconds"] or 1.0
    lines = [
        f"{report['steps']} steps, {report['tokens']} computed tokens, {report['seconds']:.3f} s",
        "",
        "| op | calls | seconds | share | GFLOP/s | of the ceiling |",
        "|---|---|---|---|---|---|",
    ]
    products = OpTotal()
    for name, total in report["ops"].items():
        if name in LINEAR:
            products.calls += total["calls"]
            products.seconds += total["seconds"]
            products.gflop += total["gflop"]
        lines.append(_row(name, total, seconds, report["ceilings"]))
    lines.append(
        f"| the rest of the steps | | {report['rest_seconds']:.3f} | {report['rest_seconds'] / seconds:.1%} | | |"
    )
    lines.append(_row("all products", asdict(products), seconds, report["ceilings"]))
    whole = {"calls": report["steps"], "seconds": report["seconds"], "gflop": products.gflop}
    lines.append(_row("products over the time of whole steps", whole, seconds, report["ceilings"]))
    return "\n".join(lines) + "\n"


def _row(name: str, total: dict[str, Any], seconds: float, ceilings: dict[str, float]) -> str:
    rate = total["gflop"] / total["seconds"] if total["seconds"] else 0.0
    top = ceilings.get("attention" if name == "attention" else "linear")
    speed = f"{rate:.1f}" if rate else ""
    share = f"{rate / top:.0%}" if rate and top else ""
    return (
        f"| {name} | {total['calls']} | {total['seconds']:.3f} | {total['seconds'] / seconds:.1%} | {speed} | {share} |"
    )


class ProfiledOps:
    """Every op of ``ops``, timed; the rest of it as it is."""

    def __init__(self, ops: Ops, profiler: Profiler) -> None:
        self._ops, self._profiler = ops, profiler
        for name in TIMED:
            setattr(self, name, _timed(name, getattr(ops, name), profiler))

    def of_layer(self, index: int) -> Ops:
        return cast(Ops, ProfiledOps(self._ops.of_layer(index), self._profiler))

    def of_qkv(self) -> Ops:
        return cast(Ops, ProfiledOps(self._ops.of_qkv(), self._profiler))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)


def _timed(name: str, op: Callable[..., Any], profiler: Profiler) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        gflop = 0.0
        if name in LINEAR:
            gflop = linear_gflop(arguments)
        elif name == "attention":
            gflop = attention_gflop(arguments[0], arguments[5])
        profiler.synchronize()
        started = time.perf_counter()
        result = op(*arguments, **options)
        profiler.synchronize()
        profiler.record(name, started, gflop)
        return result

    return run
