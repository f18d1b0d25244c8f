"""Whether the pairs of a model come with token types."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoint.families import num_token_types
from engine.checkpoint.files import CheckpointFiles
from engine.checkpoint.tokenizer_settings import makes_types
from engine.model_spec import ModelSpec


def takes_types(spec: ModelSpec) -> bool:
    """The model tells query and document apart by token types, and its tokenizer makes them."""
    stated = CheckpointFiles(Path(spec.tokenizer_path), spec.name).tokenizer_config
    has_types = spec.by_library or num_token_types(spec.model_type, spec.config) > 1
    return has_types and makes_types(stated) is not False
