"""``engine convert MODEL --output FOLDER``: the checkpoint that needs no flags afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from engine.entrypoints.cli.flags import flags


@flags(("model",), compatibility=False)
def convert(
    values: dict[str, Any],
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="A new folder for the converted checkpoint.")],
    weights: Annotated[
        Literal["bfloat16", "float16", "float32"], Parameter(help="What the weights are stored in.")
    ] = "bfloat16",
    adapter: Annotated[Path | None, Parameter(help="Folder of a LoRA adapter to merge.")] = None,
) -> int:
    """Write a checkpoint of any format that is read as plain safetensors, with one score and one tokenizer.json.

    Pickled .bin files become safetensors, quantised weights and GGUF plain ones, two labels one, the answer of a
    language model a row of a classifier, older tokenizer files a tokenizer.json; a LoRA adapter is merged.
    """
    from engine.entrypoints.cli.loading import PACKAGED
    from engine.entrypoints.conversion.convert import convert as run
    from engine.entrypoints.settings.options import build_configs
    from engine.entrypoints.terminal import console, tell, wrapped

    engine_config, _ = build_configs(values)
    out = console()
    tell(f"converting {engine_config.model.model or PACKAGED} to {output}")
    for sentence in run(engine_config.model, output, dtype=weights, adapter=adapter):
        out.print(wrapped(sentence))
    out.print(wrapped(f"{output} is ready: engine serve {output}"))
    return 0
