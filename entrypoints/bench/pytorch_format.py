"""PyTorch's benchmark records beside a result, as vLLM's bench writes them: one a metric, for that project's database.

Wanted by the environment variable that vLLM reads, so that a pipeline around its bench finds the same file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from engine.entrypoints.bench.options import DataOptions
from engine.entrypoints.bench.report import SECRET_FLAGS
from engine.entrypoints.bench.results import write_bytes

VARIABLE = "SAVE_TO_PYTORCH_BENCHMARK_FORMAT"
METRIC_ENDINGS = ("_ms", "_throughput", "_per_second", "_latency")


def write_records(path: Path, result: Mapping[str, Any], options: DataOptions, model: str) -> Path | None:
    """``path`` is the result's; None where nobody asked."""
    if not os.environ.get(VARIABLE):
        return None
    beside = path.with_suffix(".pytorch.json")
    write_bytes(beside, msgspec.json.encode(records(result, options, model)) + b"\n")
    return beside


def records(result: Mapping[str, Any], options: DataOptions, model: str) -> list[dict[str, Any]]:
    """Numbers that are measured become records; the other plain values describe each of them."""
    plain = {key: value for key, value in result.items() if isinstance(value, str | int | float | None)}
    measured = {key: value for key, value in plain.items() if key.endswith(METRIC_ENDINGS) and value is not None}
    about = {key: value for key, value in plain.items() if key not in measured}
    arguments = {key: _finite(value) for key, value in asdict(options).items() if key not in SECRET_FLAGS}
    return [
        {
            "benchmark": {"name": "engine benchmark", "extra_info": {"args": arguments}},
            "model": {"name": model},
            "metric": {"name": name, "benchmark_values": [value], "extra_info": about},
        }
        for name, value in measured.items()
    ]


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
