"""``engine assets grafana``: files that belong to other programs, printed."""

from __future__ import annotations

import json

from cyclopts import App

assets = App(name="assets", help="Print files for other programs: a Grafana dashboard.")


@assets.command
def grafana() -> int:
    """Print a Grafana dashboard of /metrics as JSON, to be imported there."""
    from engine.entrypoints.assets.grafana import dashboard

    print(json.dumps(dashboard(), indent=2))
    return 0
