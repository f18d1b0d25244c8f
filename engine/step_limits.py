"""How large a step and the KV cache are: resolved and judged here and nowhere else, while a worker loads its model.

The scheduler takes what came of it (``WorkerInfo``) as it is, and ``engine plan`` asks the same functions.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import SchedulerConfig
from engine.errors import ConfigError

MIN_SHARED_TOKENS = 8192
"""Slots of the KV cache beyond those of the longest pair: prefixes that the calls in flight share."""


@dataclass(frozen=True, kw_only=True)
class StepLimits:
    """The limits of a step: as asked for, or else as they suit model and device."""

    token_budget: int
    """Most tokens of a step."""
    kv_tokens: int
    """Slots that the KV cache should have; 0 for a model that keeps none. The device may have room for fewer."""


def resolve_limits(
    config: SchedulerConfig, *, causal: bool, max_model_len: int, default_token_budget: int
) -> StepLimits:
    """The limits of an engine whose device runs steps of ``default_token_budget`` unless told otherwise.

    Raises ``ConfigError`` where a pair of ``max_model_len`` tokens would not fit: into a step, where a model with
    bidirectional attention needs all of it at once; into the KV cache, where a causal model needs it piece by piece.
    """
    asked, asked_kv = config.max_num_batched_tokens, config.kv_cache_tokens
    if not causal:
        if asked is not None and asked < max_model_len:
            raise ConfigError(
                f"max_num_batched_tokens of {asked} is less than the {max_model_len} tokens of the longest pair, and "
                "this model cannot cut a pair; raise it, or lower --max-model-len",
                param="max_num_batched_tokens",
            )
        return StepLimits(token_budget=asked or max(default_token_budget, max_model_len), kv_tokens=0)
    budget = asked or default_token_budget
    if asked_kv is None:
        return StepLimits(token_budget=budget, kv_tokens=max_model_len + max(2 * budget, MIN_SHARED_TOKENS))
    check_kv_cache(asked_kv, max_model_len, "raise --kv-cache-tokens, or lower --max-model-len")
    return StepLimits(token_budget=budget, kv_tokens=asked_kv)


def check_kv_cache(kv_tokens: int, max_model_len: int, way_out: str) -> None:
    """Every pair must fit: what is shared of it, and what one step computes for the next, is kept until its last
    token was read. Raises ``ConfigError``, with ``way_out``, where one does not."""
    if kv_tokens < max_model_len:
        raise ConfigError(
            f"a KV cache of {kv_tokens} tokens cannot hold the longest pair of {max_model_len} tokens; {way_out}",
            param="kv_cache_tokens",
        )
