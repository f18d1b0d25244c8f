"""``engine run-batch``: a file of OpenAI batch lines, answered as the server would."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags
from engine.errors import ConfigError


@flags(("model", "scheduler", "device", "server"))
def run_batch(
    values: dict[str, Any],
    *,
    input_file: Annotated[
        str, Parameter(name=["--input-file", "-i"], help="Lines with custom_id, url and body: a file or an address.")
    ],
    output_file: Annotated[
        str, Parameter(name=["--output-file", "-o"], help="Where the answers go: a file, or an address to PUT them to.")
    ],
    output_tmp_dir: Annotated[
        Path | None, Parameter(help="Where the answers grow; a run that is repeated goes on there.")
    ] = None,
    overwrite: Annotated[bool, Parameter(help="Replace an output file that exists.", negative=())] = False,
    max_inflight: Annotated[int | None, Parameter(help="Rows in work at a time. Default: 256.")] = None,
) -> int:
    """Work through a file of OpenAI batch lines: rerank, score, classify.

    Answers come in the order of the input. A row that fails keeps its place, with its error, and the exit code is 1.
    After an interruption, the same command goes on where it stopped.
    """
    from engine.entrypoints.batch.command import BatchFiles, work_through
    from engine.entrypoints.settings.log_setup import set_up_logging
    from engine.entrypoints.settings.options import build_configs

    window = 256 if max_inflight is None else max_inflight
    if window < 1:
        raise ConfigError(f"--max-inflight {window}: a positive number expected.", param="max_inflight")
    for name in {"host", "port", "api_key"} & values.keys():
        flag = name.replace("_", "-")
        print(f"engine: --{flag} is accepted and has no effect: run-batch opens no port.", file=sys.stderr)
    engine_config, server_config = build_configs(values)
    set_up_logging(server_config.log_level, server_config.log_format)
    files = BatchFiles(input_file, output_file, output_tmp_dir, overwrite)
    return work_through(engine_config, server_config, files, window)
