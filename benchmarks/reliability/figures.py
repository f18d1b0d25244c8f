"""A figure: what was measured, what it should be, and whether it is."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    name: str
    goal: str
    measured: str
    reached: bool
    details: dict[str, Any]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def machine() -> dict[str, Any]:
    model = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    return {
        "processor": model[0] if model else platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "commit": commit.strip(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _plain(value: Any) -> Any:
    """``value`` as JSON has it: null for what is no number, such as a quantile of nothing."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(figures: Sequence[Figure]) -> str:
    rows = [f"| {f.name} | {f.goal} | {f.measured} | {'yes' if f.reached else '**no**'} |" for f in figures]
    return "\n".join(["| figure | goal | measured | reached |", "|---|---|---|---|", *rows])


def save(folder: Path, figures: Sequence[Figure], settings: dict[str, Any]) -> Path:
    """JSON and the same as a table, under one name."""
    name = f"reliability-cpu{os.cpu_count()}-{time.strftime('%Y-%m-%d-%H%M%S', time.gmtime())}"
    folder.mkdir(parents=True, exist_ok=True)
    content = _plain({"machine": machine(), "settings": settings, "figures": [asdict(figure) for figure in figures]})
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / f"{name}.md").write_text(f"`{settings['command']}`\n\n{table(figures)}\n")
    return folder / f"{name}.md"


def live_figure(when: str, taken: list[float]) -> Figure:
    p99 = quantile(taken, 0.99)
    return Figure(
        f"/live at p99 {when}", "<= 100 ms", f"{p99 * 1e3:.0f} ms of {len(taken)}", p99 <= 0.1, {"seconds": taken}
    )
