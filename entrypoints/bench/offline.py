"""What ``throughput`` and ``latency`` share: where the result goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.entrypoints.bench.options import DataOptions
from engine.entrypoints.bench.pytorch_format import write_records
from engine.entrypoints.bench.results import check_writable, data_settings, environment, write_result
from engine.entrypoints.files.writing import check_absent


def check_output(path: str | None, *, overwrite: bool) -> Path | None:
    """The path of the result. Raises ``ConfigError`` where that cannot be written, or exists already."""
    if path is None:
        return None
    place = Path(path).expanduser()
    check_absent(place, overwrite=overwrite)
    check_writable(place.parent)
    return place


def save(path: Path | None, result: dict[str, Any], options: DataOptions, model: str) -> None:
    if path is None:
        return
    write_result(path, {**result, "model_id": model, "options": data_settings(options), "environment": environment()})
    print(f"Result: {path}")
    if (beside := write_records(path, result, options, model)) is not None:
        print(f"Result: {beside}")
