"""``engine mcp``: the reranker as a tool for programs that speak the Model Context Protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags


@flags(("model", "scheduler", "device"), model_as_flag=True)
def mcp(
    values: dict[str, Any],
    *,
    transport: Annotated[
        Literal["stdio", "http"], Parameter(help="stdio: for the program that starts this one; http: at /mcp.")
    ] = "stdio",
    host: Annotated[str, Parameter(help="Address to listen on; other than loopback only with a key.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="Port to listen on.")] = 8001,
    api_key: Annotated[
        tuple[str, ...], Parameter(help="A key that callers over HTTP must send.", negative=(), consume_multiple=False)
    ] = (),
) -> int:
    """Offer a tool `rerank` over the Model Context Protocol (the extra `mcp`)."""
    from engine.entrypoints.cli.loading import announce_model, load_model
    from engine.errors import ConfigError
    from engine.extras import pip_install

    try:
        from engine.entrypoints.model_context import server
    except ModuleNotFoundError as error:
        raise ConfigError(f"engine mcp needs {error.name}: {pip_install('mcp')}.") from error
    if transport == "http":
        server.check_address(host, port, api_key)
    announce_model(values)
    name = values.get("model") or "of the package"
    if transport == "stdio":
        server.run_stdio(lambda: load_model(values), name)
    else:
        server.run_http(lambda: load_model(values), name, host, port, api_key)
    return 0
