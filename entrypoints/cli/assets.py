"""``engine assets grafana``: files that belong to other programs, printed."""

from __future__ import annotations

from importlib.resources import files

from cyclopts import App

assets = App(name="assets", help="Print files for other programs: a Grafana dashboard.")


@assets.command
def grafana() -> int:
    """Print a Grafana dashboard of /metrics as JSON, to be imported there."""
    print((files("engine.entrypoints.assets") / "grafana.json").read_text(encoding="utf-8"), end="")
    return 0
