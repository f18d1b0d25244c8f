"""``engine serve MODEL``: the HTTP server."""

from __future__ import annotations

from typing import Any

from engine import garbage_collector
from engine.entrypoints.cli.flags import flags


@flags(("model", "scheduler", "device", "server"), several_models=True)
def serve(values: dict[str, Any]) -> int:
    """Serve models over HTTP: /v1/rerank, /v1/score and the routes of other rerank servers.

    Without a model, the small reranker that comes with the package is served. With several, a call chooses by "model";
    the first one answers calls that name none.
    """
    from engine.ipc.stop_signals import end_on_stop_signals

    garbage_collector.pause()
    with end_on_stop_signals():
        from engine.entrypoints.settings.log_setup import set_up_logging
        from engine.entrypoints.settings.several_models import build_several

        engine_configs, server_config = build_several(values)
        set_up_logging(server_config.log_level, server_config.log_format)
        from engine.entrypoints.serve.server import run_server

        first, *others = engine_configs
        return run_server(first, server_config, *others)
