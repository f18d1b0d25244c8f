"""The token budget and the size of the KV cache: resolved once, and refused where the longest pair would not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import LLM
from engine.config import SchedulerConfig
from engine.errors import ConfigError
from engine.step_limits import MIN_SHARED_TOKENS, StepLimits, check_kv_cache, resolve_limits
from tests.support.checkpoints import make_qwen3


def limits(*, causal: bool = True, max_model_len: int = 512, **asked: int) -> StepLimits:
    config = SchedulerConfig(**asked)  # type: ignore[arg-type]
    return resolve_limits(config, causal=causal, max_model_len=max_model_len, default_token_budget=1024)


def test_a_device_says_how_large_a_step_is_unless_told() -> None:
    assert limits() == StepLimits(token_budget=1024, kv_tokens=512 + MIN_SHARED_TOKENS)
    assert limits(max_num_batched_tokens=16_384).kv_tokens == 512 + 2 * 16_384
    assert limits(max_num_batched_tokens=64, kv_cache_tokens=512) == StepLimits(token_budget=64, kv_tokens=512)


def test_a_model_that_cannot_cut_a_pair_gets_steps_for_the_longest() -> None:
    assert limits(causal=False, max_model_len=4096) == StepLimits(token_budget=4096, kv_tokens=0)
    assert limits(causal=False).token_budget == 1024
    with pytest.raises(ConfigError, match="cannot cut a pair; raise it, or lower --max-model-len"):
        limits(causal=False, max_num_batched_tokens=511)


def test_the_longest_pair_must_fit_whatever_the_step() -> None:
    for budget in (64, 512, 4096):
        with pytest.raises(ConfigError, match="300 tokens cannot hold the longest pair of 512") as caught:
            limits(kv_cache_tokens=300, max_num_batched_tokens=budget)
        assert caught.value.param == "kv_cache_tokens"
    check_kv_cache(512, 512, "")


def test_an_engine_with_too_small_a_cache_does_not_start_and_one_that_just_fits_scores(tmp_path: Path) -> None:
    folder = str(make_qwen3(tmp_path / "model"))
    settings = {"model": folder, "device": "cpu", "cpu_threads": 1, "max_model_len": 512}
    with pytest.raises(ConfigError, match="a KV cache of 300 tokens cannot hold"):
        LLM(**settings, kv_cache_tokens=300)
    documents = ["a bear", "bamboo " * 300, "a bear of the bamboo forest"]
    with LLM(**settings, kv_cache_tokens=512, max_num_batched_tokens=128) as small, LLM(**settings) as usual:
        scores, expected = ([o.outputs.score for o in llm.score("panda", documents)] for llm in (small, usual))
    assert scores == pytest.approx(expected, abs=1e-6)
