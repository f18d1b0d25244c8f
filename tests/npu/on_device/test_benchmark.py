"""The benchmark's command works, tried on the smallest shapes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.npu.__main__ import main
from benchmarks.npu.pieces import all_pieces
from benchmarks.npu.report import render


def test_ceilings_and_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "result.json"
    assert main(["--models", "tiny", "--pieces", "ceilings,ops", "--into", str(path)]) == 0
    report = json.loads(path.read_text())
    assert all(piece["ok"] for piece in report["pieces"].values())
    assert set(report["pieces"]) == {"ceilings", "ops-tiny"}
    assert report["machines"][0]["npu"]
    products = report["pieces"]["ceilings"]["result"]["products"]
    assert all(row[name] > 0 for row in products for name in ("bf16 ND", "bf16 NZ", "int8 ND", "int8 NZ"))
    assert "gathering keys" in capsys.readouterr().out
    assert main(["--models", "tiny", "--pieces", "ceilings,ops", "--into", str(path)]) == 0
    assert json.loads(path.read_text()) == report  # nothing was left to do


def test_pieces_and_failures() -> None:
    names = [piece.name for piece in all_pieces(["0.6B", "8B"])]
    assert names[0] == "ceilings"
    assert {"engine-8B-w8a8-shared", "engine-0.6B-bf16-apart", "ops-8B"} <= set(names)
    assert "ops-8B FAILED: no card" in render({"ops-8B": {"ok": False, "error": "no card"}})
