"""``engine plan MODEL --device DEVICE --devices N``: what fits, how fast it should be, which flags to use."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags


@flags(("model",), compatibility=False)
def plan(
    values: dict[str, Any],
    *,
    device: Annotated[
        str, Parameter(help="auto, cpu, cuda or npu: this machine, measured; or a name such as h200, l4, 910b.")
    ] = "auto",
    devices: Annotated[int, Parameter(help="How many there are; on a CPU: how many replicas share it.")] = 1,
    cpu_threads: Annotated[int | None, Parameter(help="Threads of each replica on a CPU.")] = None,
    query_tokens: Annotated[int, Parameter(help="Tokens before the document: template, instruction, query.")] = 90,
    document_tokens: Annotated[int, Parameter(help="Tokens of a document, with what follows it.")] = 190,
    documents: Annotated[int, Parameter(help="Documents of a call.")] = 100,
    json: Annotated[bool, Parameter(help="Print everything as JSON.", negative=())] = False,
) -> int:
    """Say what a model needs and what it should reach on a device, from its config.json; no weights are read.

    The exit code is 1 when it does not fit in any way.
    """
    from engine.entrypoints.planning.estimate import Workload
    from engine.entrypoints.planning.plan import HERE, make_plan
    from engine.entrypoints.planning.view import print_plan
    from engine.entrypoints.settings.options import build_configs
    from engine.entrypoints.terminal import console, print_json, tell
    from engine.errors import ConfigError

    sizes = {"devices": devices, "query-tokens": query_tokens, "document-tokens": document_tokens}
    for name, value in {**sizes, "documents": documents}.items():
        if value < 1:
            raise ConfigError(f"--{name} must be at least 1, not {value}.")
    workload = Workload(query_tokens=query_tokens, document_tokens=document_tokens, documents=documents)
    engine_config, _ = build_configs(values)
    if device in HERE:
        tell("measuring how fast this machine multiplies the matrices of the model, which takes some seconds")
    found = make_plan(engine_config.model, device, devices, workload, cpu_threads=cpu_threads)
    if json:
        print_json(found.as_json())
    else:
        print_plan(found, console())
    return 0 if found.chosen.fits else 1
