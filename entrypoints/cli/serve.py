"""``engine serve MODEL``: the HTTP server."""

from __future__ import annotations

from typing import Any

from engine.entrypoints.cli.flags import flags


@flags(("model", "scheduler", "device", "server"))
def serve(values: dict[str, Any]) -> int:
    """Serve a model over HTTP: /v1/rerank, /v1/score and the routes of other rerank servers.

    Without a model, the small reranker that comes with the package is served.
    """
    from engine.entrypoints.log_setup import set_up_logging
    from engine.entrypoints.options import build_configs

    engine_config, server_config = build_configs(values)
    set_up_logging(server_config.log_level, server_config.log_format)
    from engine.entrypoints.serve.server import run_server

    return run_server(engine_config, server_config)
