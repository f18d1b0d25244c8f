"""The run, cut into pieces that stand alone: each is a process of its own, so one that fails costs only itself.

``python -m benchmarks.npu.pieces NAME --seconds 12 --out FILE`` runs one; the command of this folder runs them all.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu.settings import Settings

TRIAL_MODEL = "tiny"
"""With this one the command itself is tried, on the simulated device for instance: everything is small."""
TRIAL_SCALE = 12


@dataclass(frozen=True)
class Piece:
    name: str
    kind: Literal["ceilings", "ops", "engine"]
    models: tuple[str, ...]
    quantization: Literal["w8a8"] | None = None
    sharing: bool = True

    def run(self, seconds: float) -> dict[str, Any]:
        from benchmarks.npu import measure

        trial = TRIAL_MODEL in self.models
        measure.set_up()
        if self.kind == "ceilings":
            return measure.measure_ceilings(list(self.models), trial=trial)
        if self.kind == "ops":
            return measure.measure_ops(self.models[0], trial=trial)
        from benchmarks.gpu.engine_run import measure_engine

        device: Any = "npu"  # the workloads and their measurement are the GPU's; only the device differs
        quantization: Any = self.quantization
        settings = Settings(device, self.models[0], "bfloat16", quantization, seconds)
        return measure_engine(settings, self.sharing, TRIAL_SCALE if trial else 1)


def all_pieces(models: list[str]) -> list[Piece]:
    """In the order in which they run: what everything else is judged by comes first."""
    pieces = [Piece("ceilings", "ceilings", tuple(models))]
    for model in models:
        pieces.append(Piece(f"ops-{model}", "ops", (model,)))
        for quantization in (None, "w8a8"):
            for sharing in (True, False):
                name = f"engine-{model}-{quantization or 'bf16'}-{'shared' if sharing else 'apart'}"
                pieces.append(Piece(name, "engine", (model,), quantization, sharing))
    return pieces


def main() -> None:
    parser = argparse.ArgumentParser(description="Run one piece of the NPU benchmark.")
    parser.add_argument("name")
    parser.add_argument("--models", required=True)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    piece = next(piece for piece in all_pieces(arguments.models.split(",")) if piece.name == arguments.name)
    started = time.perf_counter()
    result = piece.run(arguments.seconds)
    arguments.out.write_text(json.dumps(result | {"piece_s": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
