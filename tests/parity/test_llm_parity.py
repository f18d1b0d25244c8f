"""``LLM.score`` against transformers on the same texts: text in, probability out, through every layer between.

The bounds are contracts: 1e-5 on the probability in fp32, and 1e-6 between a pair alone and in any batch.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from engine import LLM
from tests.support.checkpoints import QWEN3_OVERRIDES, make_qwen3, official_qwen3_scores
from tests.support.texts import TEXTS

QUERY = "Which animal is native to the bamboo forests of central China?"
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "tied": {"hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 16},
    "untied": {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 16, "tied": False, "seed": 1},
    "wide_heads": {"hidden": 48, "layers": 2, "heads": 6, "kv_heads": 1, "head_dim": 32, "seed": 2},
    "one_layer": {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "tied": False, "seed": 3},
    "many_layers": {"hidden": 32, "layers": 9, "heads": 4, "kv_heads": 2, "head_dim": 8, "seed": 4},
    "sharded": {"hidden": 64, "layers": 4, "heads": 8, "kv_heads": 2, "head_dim": 24, "shards": 3, "dtype": "bfloat16"},
    "fp16": {"hidden": 40, "layers": 2, "heads": 5, "kv_heads": 5, "head_dim": 16, "dtype": "float16", "seed": 6},
    "converted": {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "converted": True, "seed": 7},
}  # fmt: skip


def documents(count: int, seed: int, longest_words: int = 60) -> list[str]:
    """Real texts in several scripts, cut and joined to every length; some equal, some empty."""
    rng = random.Random(seed)
    words = " ".join(TEXTS).split(" ")
    made = []
    for i in range(count):
        start = rng.randrange(len(words))
        made.append(" ".join((words * 3)[start : start + rng.randrange(longest_words)]) if i % 9 else "")
    return [*made[: count - 1], made[0]] if count > 3 else made


@pytest.fixture(scope="module", params=CHECKPOINTS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp(request.param), **CHECKPOINTS[request.param])


def llm(path: Path, **settings: Any) -> LLM:
    defaults: dict[str, Any] = {"device": "cpu", "cpu_threads": 1, "max_model_len": 8192}
    return LLM(model=str(path), **(defaults | settings))


def scores(model: LLM, query: str, texts: list[str]) -> list[float]:
    return [output.outputs.score for output in model.score(query, texts, use_tqdm=False)]


def test_scores_equal_those_of_transformers(path: Path) -> None:
    with llm(path) as whole, llm(path, max_num_batched_tokens=96, max_num_seqs=5) as pieces:
        for count in (1, 2, 7, 40):
            texts = documents(count, seed=count)
            expected = official_qwen3_scores(path, QUERY, texts)
            assert scores(whole, QUERY, texts) == pytest.approx(expected, abs=1e-5)
            assert scores(pieces, QUERY, texts) == pytest.approx(expected, abs=1e-5)


def test_the_flags_of_vllm_change_nothing(path: Path) -> None:
    texts = documents(5, seed=11)
    with llm(path) as plain:
        expected = scores(plain, QUERY, texts)
    if "converted" not in str(path):
        with llm(path, task="score", hf_overrides=QWEN3_OVERRIDES) as with_flags:
            assert scores(with_flags, QUERY, texts) == expected


def test_two_hundred_documents_of_up_to_three_thousand_tokens(tmp_path: Path) -> None:
    path = make_qwen3(tmp_path, hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16)
    long = [" ".join(TEXTS * 20)[:size] for size in (14000, 6000, 3000)]
    texts = [*documents(197, seed=3), *long]
    expected = official_qwen3_scores(path, QUERY, texts)
    for budget in (4096, 128):
        with llm(path, max_num_batched_tokens=budget) as model:
            outputs = model.score(QUERY, texts, use_tqdm=False)
            assert [output.outputs.score for output in outputs] == pytest.approx(expected, abs=1e-5)
            assert max(len(output.prompt_token_ids) for output in outputs) > 3000


def test_a_score_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    path = make_qwen3(tmp_path, hidden=64, layers=3, heads=4, kv_heads=2, head_dim=16)
    texts = documents(30, seed=5)
    rng = random.Random(0)
    with llm(path) as model, llm(path, max_num_batched_tokens=80, min_shared_tokens=1) as other:
        alone = [scores(model, QUERY, [text])[0] for text in texts]
        for _ in range(4):
            order = rng.sample(range(len(texts)), rng.randrange(2, len(texts)))
            for subject in (model, other):
                together = scores(subject, QUERY, [texts[i] for i in order])
                assert together == pytest.approx([alone[i] for i in order], abs=1e-6)


def test_over_long_pairs_equal_the_recipe_that_cuts_the_body(tmp_path: Path) -> None:
    path = make_qwen3(tmp_path, hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16)
    texts = [" ".join(TEXTS * 4), "short"]
    with llm(path, max_model_len=512) as model:
        outputs = model.score(QUERY, texts, use_tqdm=False)
    assert [output.outputs.score for output in outputs] == pytest.approx(
        official_qwen3_scores(path, QUERY, texts, max_length=512), abs=1e-5
    )
    assert [output.truncated for output in outputs] == [True, False]
