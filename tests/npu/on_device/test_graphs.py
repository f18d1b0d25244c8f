"""Small steps as ACL graphs give what they give without, whatever the step's lengths, contexts and reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch_npu

from engine.backends.npu import graphs
from engine.backends.npu.graphs import GraphShape, StepGraphs, pad_lengths
from engine.backends.worker import Worker
from engine.kernels.npu.plan import HostPlan
from engine.step import SchedulerOutput
from tests.npu.on_device import workers
from tests.support.checkpoints import make_qwen3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("qwen3"), seed=5, head_dim=128, layers=2)


@pytest.fixture(scope="module")
def workers_pair(folder: Path) -> tuple[Worker, Worker]:
    torch_npu.npu.config.allow_internal_format = True
    return workers.load_worker(folder, dtype="float16"), workers.load_worker(folder, dtype="float16", graphs=True)


def graphs_of(worker: Worker) -> StepGraphs:
    assert worker.runner is not None
    assert isinstance(worker.runner.forward, StepGraphs)
    return worker.runner.forward


def random_plans(seed: int) -> Iterator[SchedulerOutput]:
    """Steps of a few documents in all three ways, the first of them keeping its prefix."""
    rng = np.random.default_rng(seed)
    prefix = rng.integers(0, 400, 20).tolist()
    yield workers.kept_prefix(prefix)
    for _ in range(3):
        documents = [rng.integers(0, 400, n).tolist() for n in rng.integers(1, 30, rng.integers(1, 6))]
        yield workers.whole_pairs(prefix, documents)
        yield workers.shared_prefix(prefix, documents)
        yield workers.after_kept_prefix(prefix, documents)


def test_equal_to_steps_without_graphs(workers_pair: tuple[Worker, Worker]) -> None:
    eager, graphed = workers_pair
    before = graphs_of(graphed).num_replays
    for seed in range(4):
        for plan in random_plans(seed):
            expected, got = eager.execute(plan).values, graphed.execute(plan).values
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, atol=2e-3, rtol=0)
    assert graphs_of(graphed).num_replays - before >= 20


def test_steps_in_flight_do_not_disturb_each_other(workers_pair: tuple[Worker, Worker]) -> None:
    """Two steps are launched before the first is fetched, as the core does."""
    eager, graphed = workers_pair
    prefix, documents = workers.random_texts(3)
    plans = [workers.whole_pairs(prefix, documents[first : first + 2]) for first in (0, 2, 4)] * 2
    expected = [eager.execute(plan).values for plan in plans]
    waiting = []
    for plan, values in zip(plans, expected, strict=True):
        waiting.append((graphed.launch(plan), values))
        if len(waiting) == 2:
            fetch, wanted = waiting.pop(0)
            np.testing.assert_allclose(fetch().values, wanted, atol=2e-3, rtol=0)


def test_usual_shapes_are_captured_at_start(workers_pair: tuple[Worker, Worker]) -> None:
    notes = workers_pair[1].info.notes  # type: ignore[attr-defined]
    assert any(note.startswith("ACL graphs for steps up to 2048 tokens, 2 made at start") for note in notes), notes


def test_large_steps_and_steps_that_keep_run_as_they_are(workers_pair: tuple[Worker, Worker]) -> None:
    graphed = workers_pair[1]
    prefix, _ = workers.random_texts()
    before = graphs_of(graphed).num_replays
    for _ in range(3):
        graphed.execute(workers.kept_prefix(prefix))
    assert graphs_of(graphed).num_replays == before
    assert GraphShape.for_step(host_of([100] * 30)) is None


def test_a_shape_is_captured_when_it_comes_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.backends.npu.tuning.SMALL_CALLS", ())
    worker = workers.load_worker(folder, dtype="float16", graphs=True)
    stepper = graphs_of(worker)
    plan = workers.whole_pairs(*workers.random_texts())
    made = []
    for _ in range(3):
        worker.execute(plan)
        made.append((len(stepper.graphs), stepper.num_replays))
    assert made == [(0, 0), (1, 1), (1, 2)]
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 1)
    for _ in range(2):
        worker.execute(workers.whole_pairs([], [[1, 2, 3]]))
    assert len(stepper.graphs) == 1  # the one used last stays


@pytest.mark.parametrize(("head_dim", "dtype"), [(24, "float16"), (128, "float32")])
def test_models_without_such_an_operator_say_so(head_dim: int, dtype: str, tmp_path: Path) -> None:
    make_qwen3(tmp_path, head_dim=head_dim)
    worker = workers.load_worker(tmp_path, dtype=dtype, graphs=True)
    notes = worker.info.notes  # type: ignore[attr-defined]
    assert any(note.startswith("no ACL graphs") and "npu_fusion_attention" in note for note in notes), notes
    assert worker.execute(workers.whole_pairs(*workers.random_texts())).values.shape == (6, 1)


def host_of(own_lens: list[int], context: int = 0, cached: int = 0) -> HostPlan:
    """Segments that all see one context, of which ``cached`` rows come from the KV cache."""
    lengths = np.array(own_lens)
    same = np.zeros(len(lengths), int)
    return HostPlan(
        q_lens=lengths,
        cached_rows=np.arange(cached),
        sources=np.arange(context),
        context_starts=same,
        context_lens=same + context,
        own_starts=np.cumsum(lengths) - lengths + cached,
        own_lens=lengths,
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_slot_of_a_shape_can_be_filled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(200):
        host = host_of(
            rng.integers(1, 60, rng.integers(1, 40)).tolist(), int(rng.integers(0, 90)), int(rng.integers(0, 90))
        )
        shape = GraphShape.for_step(host)
        if shape is None:
            assert host.q_lens.sum() > 1900
            continue
        reads = int(rng.integers(1, len(host.q_lens) + 1))
        read_kv_lens = rng.permutation(host.kv_lens)[:reads]
        for lengths, total in (
            (host.q_lens, shape.tokens),
            (host.kv_lens, shape.keys),
            (np.ones(reads, int), shape.segments),
            (read_kv_lens, shape.keys),
        ):
            ends = pad_lengths(lengths, shape.segments, total)
            assert len(ends) == shape.segments
            assert ends[-1] == total
            assert (np.diff([0, *ends]) > 0).all()
            assert np.array_equal(np.diff([0, *ends])[: len(lengths)], lengths)
        q_pad = np.diff([0, *pad_lengths(host.q_lens, shape.segments, shape.tokens)])[len(host.q_lens) :]
        kv_pad = np.diff([0, *pad_lengths(host.kv_lens, shape.segments, shape.keys)])[len(host.q_lens) :]
        assert (kv_pad >= q_pad).all()  # no query row without a key
