"""A few seconds of the soak: honest callers beside hostile sizes and corners of HTTP, and a worker that dies."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reliability.soak import soak
from tests.support.checkpoints import make_qwen3


async def test_honest_callers_notice_nothing(tmp_path: Path) -> None:
    checkpoint = make_qwen3(tmp_path / "m", hidden=16, layers=1, head_dim=8, intermediate=16)
    figure = await soak(checkpoint, 0.05)
    assert not figure.details["unexpected"]
    assert figure.details["honest"]["right"] > 0
