"""The run, cut into pieces that stand alone: each is a process of its own, so one that fails costs only itself.

``python -m benchmarks.gpu.pieces NAME --device cuda --seconds 12 --out FILE`` runs one; the command of this folder runs
them all.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu.settings import Settings

TRIAL_SCALE = 12
"""By how much workloads are divided on a CPU."""


@dataclass(frozen=True)
class Piece:
    name: str
    kind: Literal["ceilings", "kernels", "parity", "engine", "baseline"]
    model: str = "0.6B"
    quantization: Literal["fp8"] | None = None
    sharing: bool = True

    def run(self, device: Literal["cuda", "cpu"], seconds: float, *, enforce_eager: bool = False) -> dict[str, Any]:
        is_gpu = device == "cuda"
        dtype_name: Literal["bfloat16", "float32"] = "bfloat16" if is_gpu else "float32"
        settings = Settings(device, self.model, dtype_name, self.quantization, seconds, enforce_eager)
        scale = 1 if is_gpu else TRIAL_SCALE
        if self.kind in ("ceilings", "kernels"):
            from benchmarks.gpu.ceilings import measure_ceilings, measure_kernels

            return measure_ceilings(settings) if self.kind == "ceilings" else measure_kernels(settings)
        if self.kind == "parity":
            from benchmarks.gpu.parity import measure_parity

            return measure_parity(settings, scale)
        if self.kind == "baseline":
            from benchmarks.gpu.baseline import measure_baseline

            return measure_baseline(settings, scale)
        from benchmarks.gpu.engine_run import measure_engine

        return measure_engine(settings, self.sharing, scale)


def all_pieces(models: list[str], device: str) -> list[Piece]:
    """In the order in which they run: what everything else is judged by comes first."""
    pieces = [Piece("ceilings", "ceilings")]
    for model in models:
        pieces += [Piece(f"parity-{model}", "parity", model), Piece(f"kernels-{model}", "kernels", model)]
        for quantization in (None, "fp8") if device == "cuda" else (None,):
            width = quantization or "bf16"
            for sharing in (True, False):
                name = f"engine-{model}-{width}-{'shared' if sharing else 'apart'}"
                pieces.append(Piece(name, "engine", model, quantization, sharing))
        pieces.append(Piece(f"baseline-{model}", "baseline", model))
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one piece of the GPU benchmark.")
    parser.add_argument("name")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--enforce-eager", action="store_true")
    arguments = parser.parse_args()
    model = next((part for part in arguments.name.split("-") if part[0].isdigit() or part == "tiny"), "0.6B")
    piece = next(piece for piece in all_pieces([model], arguments.device) if piece.name == arguments.name)
    started = time.perf_counter()
    result = piece.run(arguments.device, arguments.seconds, enforce_eager=arguments.enforce_eager)
    arguments.out.write_text(json.dumps(result | {"piece_s": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
