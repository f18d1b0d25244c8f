"""The run, cut into pieces that stand alone: each is a process of its own, so one that fails costs only itself.

``python -m benchmarks.gpu.pieces NAME --device cuda --seconds 12 --out FILE`` runs one; the command of this folder runs
them all.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu.settings import Settings

TRIAL_SCALE = 12
"""By how much workloads are divided on a CPU."""

WORTH = (
    "prepare", "kernels-0.6B", "ceilings", "engine-0.6B-bf16-shared", "engine-8B-bf16-shared", "parity-0.6B",
    "baseline-0.6B", "engine-8B-fp8-shared", "engine-0.6B-bf16-apart", "engine-0.6B-fp8-shared",
    "engine-8B-bf16-apart", "engine-4B-bf16-shared", "kernels-8B",
)  # fmt: skip
"""The order of pieces: what everything else needs, then what tells most for its seconds. Others come after these."""

SECONDS: dict[str, tuple[float, float]] = {
    "prepare": (60, 90),
    "kernels": (20, 60),
    "ceilings": (15, 45),
    "parity": (45, 90),
    "baseline": (35, 70),
    "engine-0.6B": (30, 75),
    "engine": (45, 90),
}
"""By the beginning of a piece's name: what it should take on an H100 (calculated, not measured), and what it may."""

Save = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Piece:
    name: str
    kind: Literal["prepare", "ceilings", "kernels", "parity", "engine", "baseline"]
    model: str = "0.6B"
    quantization: Literal["fp8"] | None = None
    sharing: bool = True

    @property
    def needs_s(self) -> float:
        """It is not started with less time left."""
        return self._seconds()[0]

    @property
    def limit_s(self) -> float:
        """It is stopped after so long."""
        return self._seconds()[1]

    def _seconds(self) -> tuple[float, float]:
        return next(both for begin, both in SECONDS.items() if self.name.startswith(begin))

    def run(
        self,
        device: Literal["cuda", "cpu"],
        seconds: float,
        *,
        enforce_eager: bool = False,
        save: Save = lambda result: None,
    ) -> dict[str, Any]:
        """The piece's result; ``save`` is given what there is whenever a part is done."""
        is_gpu = device == "cuda"
        dtype_name: Literal["bfloat16", "float32"] = "bfloat16" if is_gpu else "float32"
        settings = Settings(device, self.model, dtype_name, self.quantization, seconds, enforce_eager)
        scale = 1 if is_gpu else TRIAL_SCALE
        if self.kind == "prepare":
            from benchmarks.gpu.prepare import prepare

            return prepare(settings, self.limit_s)
        if self.kind in ("ceilings", "kernels"):
            from benchmarks.gpu.ceilings import measure_ceilings, measure_kernels

            return measure_ceilings(settings) if self.kind == "ceilings" else measure_kernels(settings)
        if self.kind == "parity":
            from benchmarks.gpu.parity import measure_parity

            return measure_parity(settings, scale)
        if self.kind == "baseline":
            from benchmarks.gpu.baseline import measure_baseline

            return measure_baseline(settings, scale, save)
        from benchmarks.gpu.engine_run import measure_engine

        return measure_engine(settings, self.sharing, scale, save)


def all_pieces(models: list[str], device: str) -> list[Piece]:
    """In the order in which they run, ``WORTH``. On a CPU, where kernels are interpreted, nothing is prepared."""
    pieces = [Piece("ceilings", "ceilings")]
    if device == "cuda":
        pieces.append(Piece("prepare", "prepare"))
    for model in models:
        pieces += [Piece(f"parity-{model}", "parity", model), Piece(f"kernels-{model}", "kernels", model)]
        for quantization in (None, "fp8") if device == "cuda" else (None,):
            width = quantization or "bf16"
            for sharing in (True, False):
                name = f"engine-{model}-{width}-{'shared' if sharing else 'apart'}"
                pieces.append(Piece(name, "engine", model, quantization, sharing))
        pieces.append(Piece(f"baseline-{model}", "baseline", model))
    return sorted(pieces, key=lambda piece: WORTH.index(piece.name) if piece.name in WORTH else len(WORTH))


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one piece of the GPU benchmark.")
    parser.add_argument("name")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--enforce-eager", action="store_true")
    arguments = parser.parse_args()
    model = next((part for part in arguments.name.split("-") if part[0].isdigit() or part == "tiny"), "0.6B")
    piece = next(piece for piece in all_pieces([model], arguments.device) if piece.name == arguments.name)
    started = time.perf_counter()

    def save(result: dict[str, Any]) -> None:
        """Whole or not at all: the process may be stopped in the middle of it."""
        new = arguments.out.with_suffix(".new")
        new.write_text(json.dumps(result | {"piece_s": time.perf_counter() - started}))
        new.replace(arguments.out)

    save(piece.run(arguments.device, arguments.seconds, enforce_eager=arguments.enforce_eager, save=save))


if __name__ == "__main__":
    main()
