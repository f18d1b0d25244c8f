"""Small steps as ACL graphs give what they give without, whatever the step's lengths, contexts and reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_npu

from engine.backends.npu import graphs
from engine.backends.npu.graph_shapes import GraphShape, padded
from engine.backends.npu.graphs import StepGraphs, is_faster
from engine.backends.worker import Worker
from engine.kernels.npu.pages import BLOCK
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
            rng.integers(1, 60, rng.integers(1, 40)).tolist(), int(rng.integers(0, 300)), int(rng.integers(0, 300))
        )
        shape = GraphShape.for_step(host)
        if shape is None:
            assert host.q_lens.sum() > 1900
            continue
        launch = shape.launch(host, shape.tokens)
        q_lens, kv_lens = np.diff([0, *launch.q_ends]), np.array(launch.kv_lens)
        assert len(q_lens) == len(kv_lens) == shape.segments
        assert launch.q_ends[-1] == shape.tokens
        assert (q_lens > 0).all()
        assert (q_lens <= kv_lens).all()  # no query row without a key
        num = len(host.q_lens)
        assert np.array_equal(q_lens[:num], host.q_lens)
        assert np.array_equal(kv_lens[:num], host.kv_lens)
        assert kv_lens[num:].max() <= BLOCK  # the attention of the padding is no more than a block a dummy
        rows, table = shape.rows_and_table(host)
        assert (len(rows), table.shape) == (shape.blocks * BLOCK, (shape.segments, shape.width))
        assert table.max() < shape.blocks
        assert (-(-kv_lens // BLOCK)).sum() <= shape.given_blocks
        assert rows.min() >= 0
        for segment in range(num):  # each finds its own keys, through table and rows
            blocks = table[segment][: -(-kv_lens[segment] // BLOCK)]
            found = rows.reshape(-1, BLOCK)[blocks].ravel()[: kv_lens[segment]]
            start = host.own_starts[segment] + shape.cached_rows - len(host.cached_rows)
            assert np.array_equal(found[-host.own_lens[segment] :], start + np.arange(host.own_lens[segment]))


def test_padding_is_shared_by_the_dummies() -> None:
    assert padded(np.array([5, 7]), 5, 26) == [5, 7, 5, 5, 4]
    assert padded(np.array([5, 7]), 2, 12) == [5, 7]
    sizes = range(200, 1900, 7)
    shapes = [GraphShape.for_step(host_of([size - 40, 40])) for size in sizes]
    rows = sum(shape.tokens for shape in shapes if shape is not None)
    assert sum(sizes) / rows > 0.85


def test_a_shape_that_is_slower_stays_without(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "is_faster", lambda replay, without: False)
    worker = workers.load_worker(folder, dtype="float16", graphs=True)
    notes = worker.info.notes  # type: ignore[attr-defined]
    assert any("0 made at start, 2 shapes faster without" in note for note in notes), notes
    assert worker.execute(workers.whole_pairs(*workers.random_texts())).values.shape == (6, 1)
    assert graphs_of(worker).num_replays == 0


def test_replay_and_step_are_timed_in_turn() -> None:
    order: list[str] = []
    is_faster(lambda: order.append("replay"), lambda: order.append("without"))
    assert order == ["replay", "without"] * graphs.TIMING_ROUNDS


def test_copies_without_pinned_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = workers.load_worker(folder, dtype="float16").execute(workers.whole_pairs(*workers.random_texts()))
    monkeypatch.setenv("ENGINE_NPU_PINNED_COPIES", "0")
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pytest.fail("memory was pinned"))
    worker = workers.load_worker(folder, dtype="float16", graphs=True)
    notes = worker.info.notes  # type: ignore[attr-defined]
    assert any("ENGINE_NPU_PINNED_COPIES=0" in note for note in notes), notes
    for _ in range(3):
        got = worker.execute(workers.whole_pairs(*workers.random_texts()))
        np.testing.assert_allclose(got.values, expected.values, atol=2e-3, rtol=0)
