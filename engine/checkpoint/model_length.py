"""How many tokens a model reads: as asked, else as its checkpoint or publisher says, and no more than its positions."""

from __future__ import annotations

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.config_numbers import MAX_POSITIONS
from engine.checkpoint.families import position_limit
from engine.checkpoint.library_model import library_position_limit
from engine.errors import ConfigError, ModelLoadError

UNLIMITED = 10**9
"""Tokenizers that know no limit state a larger length than this."""


def resolve_max_model_len(checkpoint: Checkpoint, asked: int | None) -> int:
    """The tokens of a prompt: as asked, else by the chain or what is published, within the network's positions.

    ``asked``: ``--max-model-len``, in tokens. Raises ``ConfigError`` for one that the network cannot read, and
    ``ModelLoadError`` where config.json states no usable limit.
    """
    limit = _position_limit(checkpoint, asked)
    if asked is None:
        chain, identity = checkpoint.chain, checkpoint.identity
        stated = chain.transformer.max_len if chain else identity.model.max_len if identity else None
        if checkpoint.is_late:  # the sides have limits of their own
            stated = None
        return min(limit, stated or limit)
    if not 1 <= asked <= limit:
        raise ConfigError(
            f"--max-model-len {asked} is not possible: {checkpoint.label} was made for 1 to {limit} tokens.",
            param="max_model_len",
        )
    return asked


def _position_limit(checkpoint: Checkpoint, asked: int | None) -> int:
    if checkpoint.by_library:
        return library_position_limit(checkpoint.files, checkpoint.config, asked)
    config, family = checkpoint.config, checkpoint.family
    limit = position_limit(config["model_type"], config)
    if limit is None:
        stated = config.get("max_position_embeddings")
        raise ModelLoadError(f"config.json of {checkpoint.label} has no usable max_position_embeddings: {stated!r}.")
    if limit > MAX_POSITIONS:
        raise ModelLoadError(
            f"config.json of {checkpoint.label} scales its positions to {limit}; at most {MAX_POSITIONS} are possible."
        )
    if checkpoint.is_late:
        return limit
    if not family.decoder or checkpoint.chain is not None:  # a decoder's tokenizer states its largest sibling's length
        stated = checkpoint.files.tokenizer_config.get("model_max_length")
        if isinstance(stated, int | float) and 0 < stated < UNLIMITED:
            limit = min(limit, int(stated))
    return limit
