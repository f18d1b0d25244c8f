"""Whether the pairs of a model come with token types."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoint.families import num_token_types
from engine.checkpoint.files import CheckpointFiles
from engine.model_spec import ModelSpec


def takes_types(spec: ModelSpec) -> bool:
    """The model tells query and document apart by token types, and its tokenizer makes them."""
    names = CheckpointFiles(Path(spec.tokenizer_path), spec.name).tokenizer_config.get("model_input_names")
    has_types = spec.by_library or num_token_types(spec.model_type, spec.config) > 1
    return has_types and (names is None or "token_type_ids" in names)
