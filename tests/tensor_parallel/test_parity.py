"""Two and four processes that share a model score like transformers in fp32, in every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.backends.worker import Worker
from engine.kernels.cpu import available as kernels_obstacle
from engine.step import TPRank
from tests.families.cases import FAMILIES
from tests.support.adapters import make_adapter, merge
from tests.support.checkpoints import make_qwen3, official_qwen3_scores
from tests.tensor_parallel.jobs import DOCUMENTS, QUERY, Job, job, run

TOLERANCE = 1e-5
"""Of the probability, as on one device."""
EVERY_PROJECTION = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def probabilities(logits: np.ndarray | list[float]) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


@dataclass
class Case:
    """One checkpoint, run by ``size`` workers."""

    size: int
    make: Callable[[Path], Path]
    expected: Callable[[Path], np.ndarray]
    settings: dict[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE


def qwen3(size: int, **shape: Any) -> Case:
    return Case(
        size,
        lambda folder: make_qwen3(folder / "Qwen3-Reranker", seed=5, **shape),
        lambda folder: np.array(official_qwen3_scores(folder, QUERY, DOCUMENTS)),
    )


def family(name: str, shape: str, size: int = 2) -> Case:
    entry = FAMILIES[name]
    return Case(
        size,
        lambda folder: entry.make(folder / "model", shape),
        lambda folder: probabilities(entry.expected(folder, QUERY, DOCUMENTS)),
        entry.settings,
    )


CASES: dict[str, Case] = {
    "2 workers, tied": qwen3(2),
    "2 workers, untied, bf16 on disk in three files": qwen3(2, tied=False, layers=4, shards=3, dtype="bfloat16"),
    "2 workers, one key head, biases": qwen3(2, kv_heads=1, attention_bias=True),
    "2 workers, one layer, odd sizes": qwen3(2, layers=1, hidden=40, head_dim=24, intermediate=58, vocab_size=2999),
    "2 workers, converted": qwen3(2, converted=True, score_bias=True),
    "4 workers, two key heads, tied": qwen3(4, heads=8, head_dim=16),
    "4 workers, one key head, untied, four files": qwen3(4, kv_heads=1, tied=False, shards=4, layers=3),
    "4 workers, a key head each, fp16 on disk": qwen3(4, heads=8, kv_heads=4, head_dim=16, dtype="float16"),
    "4 workers, gte": family("gte", "three layers", 4),
} | {
    f"2 workers, {name}, {shape}": family(name, shape)
    for name, shape in (
        ("bert", "three layers"),
        ("xlm-roberta", "three layers"),
        ("qwen2", "untied, bf16 on disk, one key head"),
        ("gemma", "one key head"),
        ("llama", "biases everywhere, llama3 rope"),
        ("modernbert", "as published"),
        ("modernbert", "mean pooling, biases, one layer in two sees all"),
        ("deberta-v2", "as published"),
        ("deberta-v2", "projections of their own, exact distances"),
        ("new", "NTK scaling"),
        ("mpnet", "three layers"),
        ("eurobert", "late"),
        ("gemma2", "caps that bite, a window of 16"),
        ("phi3", "three quarters of a head rotate, longrope"),
        ("qwen3_moe", "two of six experts, the first layer dense"),
    )
}


@dataclass
class Done:
    folder: Path
    job: Job
    values: np.ndarray


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """All cases, with two processes and with four."""
    root = tmp_path_factory.mktemp("models")
    folders = {name: case.make(root / str(number)) for number, (name, case) in enumerate(CASES.items())}
    result: dict[str, Done] = {}
    for size in (2, 4):
        names = [name for name, case in CASES.items() if case.size == size]
        jobs = [job(folders[name], size, **CASES[name].settings) for name in names]
        for name, made, values in zip(names, jobs, run(root / f"of {size}", jobs, size), strict=True):
            result[name] = Done(folders[name], made, values)
    return result


@pytest.mark.parametrize("name", CASES)
def test_workers_score_like_transformers(name: str, done: dict[str, Done]) -> None:
    case, outcome = CASES[name], done[name]
    expected = case.expected(outcome.folder)
    assert np.ptp(expected) > 1e-3, "the inputs do not tell the pairs apart"
    np.testing.assert_allclose(probabilities(outcome.values[:, 0]), expected, atol=case.tolerance, rtol=0)


@pytest.mark.parametrize("quantization", ["int8", "int16"])
def test_quantised_workers_score_like_one(quantization: str, tmp_path: Path) -> None:
    """A scale is for 512 values of a row, so a worker with fewer columns has finer ones: equal up to rounding."""
    if reason := kernels_obstacle():
        pytest.skip(reason)
    folder = make_qwen3(tmp_path / "Qwen3-Reranker", layers=3, hidden=128, intermediate=1280)
    one = job(folder, 1, quantization=quantization)
    worker = Worker(one.config, one.spec, 0, TPRank())
    worker.load()
    (values,) = run(tmp_path / "of 2", [job(folder, 2, quantization=quantization)], 2)
    expected = np.array(official_qwen3_scores(folder, QUERY, DOCUMENTS))
    errors = [
        np.abs(probabilities(logits[:, 0]) - expected).max() for logits in (values, worker.execute(one.plan).values)
    ]
    assert errors[0] < {"int8": 8e-2, "int16": 2e-3}[quantization]
    assert errors[0] < 2 * errors[1], "dividing a row must not cost precision"


def test_adapters_are_divided_like_the_weights(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "Qwen3-Reranker", heads=4, kv_heads=1, tied=False)
    adapter = make_adapter(tmp_path / "adapter", base, [*EVERY_PROJECTION, "lm_head"])
    merged = merge(tmp_path / "merged" / "Qwen3-Reranker", base, adapter)
    jobs = [job(base, 2, adapter=name, lora_modules={"mine": str(adapter)}) for name in ("mine", None)]
    adapted, plain = run(tmp_path / "of 2", jobs, 2)
    for values, folder in ((adapted, merged), (plain, base)):
        expected = official_qwen3_scores(folder, QUERY, DOCUMENTS)
        np.testing.assert_allclose(probabilities(values[:, 0]), expected, atol=5e-5, rtol=0)
