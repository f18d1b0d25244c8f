"""Scores equal those of transformers' Qwen3ForCausalLM with the official yes/no formula, however the work is cut up.

Each test drives a Worker with plans made by hand. The contract: the probability within 1e-5 of transformers in fp32,
and within 1e-6 of the same pair computed alone, whatever else is in its step and wherever its prefix was computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from engine.backends.cpu.backend import KERNELS_VARIABLE
from engine.backends.worker import Worker
from engine.kernels.cpu import available as kernels_obstacle
from tests.backends.plans import NO_YES, PlanBuilder, config_of, spec_of
from tests.support.checkpoints import make_qwen3

CAPACITY = 4096
WITH_TRANSFORMERS, IN_A_BATCH = 1e-5, 1e-6

CHECKPOINTS: dict[str, dict[str, Any]] = {
    "tied": {},
    "one layer, untied, 8 query heads a key head": {
        "layers": 1, "tied": False, "heads": 8, "kv_heads": 1, "head_dim": 16, "hidden": 48,
    },
    "ten layers, three shards, bf16 on disk": {"layers": 10, "shards": 3, "dtype": "bfloat16"},
    "biases, no grouping, fp16 on disk": {"attention_bias": True, "heads": 3, "kv_heads": 3, "dtype": "float16"},
    "padded vocabulary, small theta, odd sizes": {
        "vocab_size": 3000, "rope_theta": 10_000, "hidden": 40, "head_dim": 24, "intermediate": 56, "layers": 4,
    },
    "yarn": {
        "config_changes": {
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
        },
        "layers": 3,
    },
    "converted, with a bias": {"converted": True, "score_bias": True, "layers": 3},
}  # fmt: skip


@dataclass
class Setting:
    worker: Worker
    transformers: Any
    score_bias: float
    prefix: list[int]
    documents: list[list[int]]

    def probabilities(self, plan: PlanBuilder) -> np.ndarray:
        logits = self.worker.execute(plan.build()).values[:, 0].astype(np.float64)
        return 1 / (1 + np.exp(-logits))

    def expected(self, ids: list[int]) -> float:
        with torch.inference_mode():
            logits = self.transformers(input_ids=torch.tensor([ids])).logits.double()
        if logits.ndim == 2:
            return float(torch.sigmoid(logits[0, 0] + self.score_bias))
        return float(torch.softmax(logits[0, -1, list(NO_YES)], 0)[1])

    def alone(self, ids: list[int]) -> float:
        plan = PlanBuilder(CAPACITY)
        plan.add(ids, read=True)
        return float(self.probabilities(plan)[0])

    @cached_property
    def expected_of_all(self) -> np.ndarray:
        return np.array([self.expected(self.prefix + document) for document in self.documents])

    @cached_property
    def alone_of_all(self) -> np.ndarray:
        return np.array([self.alone(self.prefix + document) for document in self.documents])


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Setting]:
    """By name and kernels, each made once: tests run in random order."""

    @cache
    def make(name: str, kernels: str) -> Setting:
        folder = tmp_path_factory.mktemp("qwen3")
        make_qwen3(folder, seed=5, **CHECKPOINTS[name])
        worker = Worker(config_of(kv_cache_tokens=CAPACITY), spec_of(folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(KERNELS_VARIABLE, kernels)
            worker.load()
        rng = np.random.default_rng(1)
        prefix = rng.integers(0, 400, 70).tolist()
        documents = [rng.integers(0, 400, n).tolist() for n in (1, 7, 36, 39, 36, 150, 300, 2)]
        return Setting(worker, _transformers_model(folder), _score_bias(name, folder), prefix, documents)

    return make


@pytest.fixture(params=["torch", "compiled"])
def kernels(request: pytest.FixtureRequest) -> str:
    if request.param == "compiled" and (reason := kernels_obstacle()):
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(params=CHECKPOINTS)
def setting(request: pytest.FixtureRequest, kernels: str, settings: Callable[[str, str], Setting]) -> Setting:
    return settings(request.param, kernels)


def _score_bias(name: str, folder: Path) -> float:
    """Qwen3ForSequenceClassification of transformers has no bias and leaves the file's out."""
    if "score_bias" not in CHECKPOINTS[name]:
        return 0.0
    with safe_open(folder / "model.safetensors", "np") as file:
        return float(file.get_tensor("score.bias")[0])


def _transformers_model(folder: Path) -> Any:
    from transformers import Qwen3ForCausalLM, Qwen3ForSequenceClassification

    is_converted = "SequenceClassification" in (folder / "config.json").read_text()
    family = Qwen3ForSequenceClassification if is_converted else Qwen3ForCausalLM
    return family.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture
def expected(setting: Setting) -> np.ndarray:
    return setting.expected_of_all


@pytest.fixture
def alone(setting: Setting) -> np.ndarray:
    return setting.alone_of_all


def check(got: np.ndarray, expected: np.ndarray, alone: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, atol=WITH_TRANSFORMERS, rtol=0)
    np.testing.assert_allclose(got, alone, atol=IN_A_BATCH, rtol=0)


def test_the_inputs_tell_pairs_apart(expected: np.ndarray) -> None:
    assert np.ptp(expected) > 0.05


def test_whole_pairs(setting: Setting, expected: np.ndarray, alone: np.ndarray) -> None:
    plan = PlanBuilder(CAPACITY)
    for document in setting.documents:
        plan.add(setting.prefix + document, read=True)
    check(setting.probabilities(plan), expected, alone)


def test_shared_prefix_in_one_step(setting: Setting, expected: np.ndarray, alone: np.ndarray) -> None:
    plan = PlanBuilder(CAPACITY)
    prefix = plan.add(setting.prefix)
    for document in setting.documents:
        plan.add(document, [prefix], read=True)
    check(setting.probabilities(plan), expected, alone)


def test_two_levels_of_shared_prefixes(setting: Setting, expected: np.ndarray, alone: np.ndarray) -> None:
    """Template and query as segments of their own, and two queries that share the template."""
    plan = PlanBuilder(CAPACITY)
    template = plan.add(setting.prefix[:50])
    query, other_query = plan.add(setting.prefix[50:], [template]), plan.add([5, 6, 7], [template])
    for document in setting.documents:
        plan.add(document, [template, other_query], read=True)
    for document in setting.documents:
        plan.add(document, [template, query], read=True)
    check(setting.probabilities(plan)[len(setting.documents) :], expected, alone)


def test_prefix_kept_for_a_later_step(setting: Setting, expected: np.ndarray, alone: np.ndarray) -> None:
    first = PlanBuilder(CAPACITY)
    template = first.add(setting.prefix[:50], keep_at=1500)
    first.add(setting.prefix[50:], [template], keep_at=33)
    assert setting.worker.execute(first.build()).values.shape == (0, 1)  # nothing to score yet
    second = PlanBuilder(CAPACITY)
    second.add([1, 2, 3], read=True, keep_at=0)
    for document in setting.documents:
        second.add(document, [("slot", 1500, 50), ("slot", 33, 20)], read=True)
    check(setting.probabilities(second)[1:], expected, alone)


def test_slots_may_be_reused_in_the_step_that_last_reads_them(
    setting: Setting, expected: np.ndarray, alone: np.ndarray
) -> None:
    first = PlanBuilder(CAPACITY)
    first.add(setting.prefix, keep_at=100)
    setting.worker.execute(first.build())
    second = PlanBuilder(CAPACITY)
    second.add([9] * 70, keep_at=100)
    for document in setting.documents:
        second.add(document, [("slot", 100, 70)], read=True)
    check(setting.probabilities(second), expected, alone)


def test_document_in_chunks_over_several_steps(setting: Setting, expected: np.ndarray, alone: np.ndarray) -> None:
    which = 6
    ids = setting.prefix + setting.documents[which]
    context, done, got = [], 0, np.zeros(0)
    for size in (64, 1, 200, len(ids) - 265):
        plan = PlanBuilder(CAPACITY)
        plan.add([3] * 40, read=True)  # somebody else's pair in every step
        is_last = done + size == len(ids)
        plan.add(ids[done : done + size], context, read=is_last, keep_at=-1 if is_last else 700 + done)
        context = [*context, ("slot", 700 + done, size)]
        done += size
        got = setting.probabilities(plan)
    assert done == len(ids)
    check(got[1:], expected[which : which + 1], alone[which : which + 1])


def test_many_documents_in_any_order_and_number(setting: Setting, expected: np.ndarray, alone: np.ndarray) -> None:
    rng = np.random.default_rng(8)
    order = rng.integers(0, len(setting.documents), 60)
    plan = PlanBuilder(CAPACITY)
    prefix = plan.add(setting.prefix)
    for which in order:
        if rng.random() < 0.2:
            plan.add(setting.prefix + setting.documents[which], read=True)
        else:
            plan.add(setting.documents[which], [prefix], read=True)
    check(setting.probabilities(plan), expected[order], alone[order])


def test_values_follow_the_order_of_read_segments(setting: Setting, alone: np.ndarray) -> None:
    plan = PlanBuilder(CAPACITY)
    prefix = plan.add(setting.prefix)
    for document in setting.documents:
        plan.add(document, [prefix], read=True)
    plan.reads.reverse()
    np.testing.assert_allclose(setting.probabilities(plan), alone[::-1], atol=IN_A_BATCH, rtol=0)


def test_long_document(tmp_path: Path) -> None:
    """3,000 tokens in steps of 512, as a small budget cuts them."""
    make_qwen3(tmp_path, layers=2)
    worker = Worker(config_of(kv_cache_tokens=4096), spec_of(tmp_path))
    worker.load()
    setting = Setting(worker, _transformers_model(tmp_path), 0.0, [], [])
    ids = np.random.default_rng(4).integers(0, 400, 3000).tolist()
    got = np.zeros(0)
    for start in range(0, len(ids), 512):
        is_last = start + 512 >= len(ids)
        plan = PlanBuilder(4096)
        context = [("slot", 0, start)] if start else []
        plan.add(ids[start : start + 512], context, read=is_last, keep_at=-1 if is_last else start)
        got = setting.probabilities(plan)
    assert abs(float(got[0]) - setting.expected(ids)) < WITH_TRANSFORMERS
