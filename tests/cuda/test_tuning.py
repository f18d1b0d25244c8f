"""What is decided by measuring at load, on the stand-in: forms, graphs, budget, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from engine.backends.cuda import tuning
from engine.backends.cuda.attention import GatherForm, RangeForm
from engine.backends.cuda.backend import CudaBackend
from engine.backends.cuda.graphs import BUCKETS
from engine.backends.cuda.planner import StepTime
from engine.backends.cuda.tuning import SIZES, Tuner
from engine.backends.worker import Worker
from engine.errors import OutOfMemoryError
from engine.kernels.triton.attention import AttentionConfig
from engine.model_spec import HeadSpec
from tests.backends.plans import config_of, spec_of
from tests.cuda.stand_in import GIB, StandIn, needs_interpreter, replay_by_running
from tests.cuda.test_forms import dense_flash
from tests.support.checkpoints import make_qwen3

pytestmark = [needs_interpreter, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
TILE = AttentionConfig(16, 32, 1, 1)
LAW = StepTime(2e-3, 1e-6, 1e-10)


class Tuned(StandIn):
    """The stand-in, tuned as a real device is."""

    def tune(self, time_step: Callable[[Sequence[int]], float], largest: int) -> tuple[int, tuple[str, ...]]:
        return CudaBackend.tune(self, time_step, largest)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tuning asks of the driver, and measurements small enough for the interpreter."""
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: None)
    monkeypatch.setattr(tuning, "GraphRecorder", lambda: replay_by_running)
    monkeypatch.setattr(tuning, "GatherForm", lambda: GatherForm(flash=dense_flash))
    monkeypatch.setattr(tuning, "candidate_configs", lambda dtype, head_dim: [TILE])
    monkeypatch.setattr(tuning, "ATTENTION_STEPS", {"small": [(3, [4])], "large": [(2, [5, 1])]})
    monkeypatch.setattr(tuning, "BUCKETS", (8, 16, 64))
    monkeypatch.setattr(tuning, "SIZES", (8, 16))
    monkeypatch.setattr(tuning, "SHORT", 4)
    monkeypatch.setattr(tuning, "REPEATS", 1)
    monkeypatch.setattr(tuning, "ATTENTION_REPEATS", 1)


def test_a_worker_is_tuned_at_load(tmp_path: Path, driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_qwen3(tmp_path, layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, intermediate=48)
    backend = Tuned()
    monkeypatch.setattr("engine.backends.worker.choose_backend", lambda name: (backend, "stand-in"))
    spec = spec_of(folder, head=HeadSpec(kind="from_2_way_softmax", token_ids=(7, 11)), max_model_len=20)
    notes = Worker(config_of(kv_cache_tokens=40, budget=16, dtype="bfloat16"), spec).load().notes
    assert backend.ops is not None
    assert backend.ops.small_form == RangeForm(TILE)
    assert backend.ops.large_form is not None
    assert backend.ops.small_tokens == 16
    text = "\n".join(notes)
    assert "small steps: attention triton-16x32" in text
    assert "large steps: attention " in text
    assert "flash-gather" in text
    assert "CUDA graphs for steps up to " in text or "no CUDA graphs: no step is faster with one" in text
    assert "memory: 2.00 GiB for weights, KV cache and graphs, 1.00 GiB measured for a step of 16 tokens" in text
    assert "step time " in text


@pytest.mark.parametrize("fault", ["capture fails", "other values"])
def test_a_graph_that_fails_or_is_wrong_costs_a_line(
    fault: str, tmp_path: Path, driver: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(run: Callable[[], None]) -> Callable[[], None]:
        if fault == "capture fails":
            raise RuntimeError("operation not permitted when stream is capturing")
        run()  # and the replay does nothing: what comes out is of another step
        return lambda: None

    monkeypatch.setattr(tuning, "GraphRecorder", lambda: record)
    folder = make_qwen3(tmp_path, layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, intermediate=48)
    backend = Tuned()
    monkeypatch.setattr("engine.backends.worker.choose_backend", lambda name: (backend, "stand-in"))
    spec = spec_of(folder, head=HeadSpec(kind="from_2_way_softmax", token_ids=(7, 11)), max_model_len=20)
    worker = Worker(config_of(kv_cache_tokens=40, budget=16, dtype="bfloat16"), spec)
    text = "\n".join(worker.load().notes)
    expected = {
        "capture fails": "no CUDA graphs: RuntimeError: operation not permitted when stream is capturing",
        "other values": "no CUDA graphs: GraphMismatchError: the graph of 16 tokens is off by ",
    }
    assert expected[fault] in text
    assert backend.graphed is not None
    assert worker.runner is not None
    worker.runner.warm_up(8)
    assert backend.graphed.num_replays == 0


class Recorded:
    """Stands for ``GraphedForward``: sizes are recorded, and one of them may not fit."""

    def __init__(self, too_large: int = 1 << 30) -> None:
        self.sizes: list[int] = []
        self.captured: list[int] = []
        self.too_large = too_large

    def capture(self, num_tokens: int, *how: object) -> None:
        self.captured.append(num_tokens)
        if num_tokens >= self.too_large:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes = sorted([*self.sizes, num_tokens])

    def drop(self, num_tokens: int) -> None:
        self.sizes = [size for size in self.sizes if size != num_tokens]

    def forget(self) -> None:
        self.sizes = []


@pytest.mark.parametrize(("too_large", "gains_to"), [(1 << 30, 2048), (1024, 2048), (1 << 30, 16)])
def test_graphs_reach_as_far_as_they_gain_and_fit(
    too_large: int, gains_to: int, real_sizes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphed = Recorded(too_large)

    def time_step(lengths: Sequence[int]) -> float:
        tokens = sum(lengths)
        launches = 1e-3 * min(1.0, gains_to / tokens) if tokens <= gains_to else -1e-6
        return 5e-3 + (0.0 if any(size >= tokens for size in graphed.sizes) else launches)

    tuned = tuner(time_step)
    tuned.graphed, tuned.ops.small_form, tuned.ops.large_form = graphed, RangeForm(TILE), RangeForm(TILE)  # type: ignore[assignment]
    tuned.eager = False
    monkeypatch.setattr(tuning, "BUCKETS", BUCKETS)
    notes = tuned._capture(16_384)
    top = min(gains_to, too_large // 2)  # the next doubling below
    assert graphed.sizes == [size for size in BUCKETS if size <= top]
    assert graphed.captured == sorted(graphed.captured, reverse=True)
    tried = [size for size in graphed.captured if size > top]
    assert tried == [size for size in (16_384, 8192, 4096, 2048, 1024, 512, 256, 128, 64) if size > top]
    if gains_to == 16:
        assert notes[-1] == "no CUDA graphs: no step is faster with one"
    else:
        assert notes[-1].startswith(f"CUDA graphs for steps up to {graphed.sizes[-1]} tokens")
    assert ("does not fit into the memory" in "\n".join(notes)) == (too_large == 1024)


def test_padding_to_a_recorded_size_is_under_five_per_cent_on_average() -> None:
    for low, high in ((512, 1024), (1024, 2048), (8192, 16_384)):
        padded = [min(size for size in BUCKETS if size >= tokens) for tokens in range(low + 1, high + 1)]
        assert sum(padded) / sum(range(low + 1, high + 1)) < 1.05


def tuner(time_step: Callable[[Sequence[int]], float]) -> Tuner:
    backend = StandIn()
    ops, _ = backend.make_ops(torch.device("cpu"), torch.float32, None)
    assert backend.ops is ops
    backend.ops.head_shape = (2, 1, 16)
    return Tuner(backend, backend.ops, None, time_step, eager=backend.config.enforce_eager)


def law(lengths: Sequence[int]) -> float:
    return LAW.seconds(sum(lengths), sum(length * length // 2 for length in lengths))


@pytest.fixture
def real_sizes(driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SIZES", SIZES)
    monkeypatch.setattr(tuning, "SHORT", 128)


def test_the_budget_follows_from_the_measured_law(real_sizes: None) -> None:
    budget, notes = tuner(law).run(16_384)
    assert budget == 16_384  # 2 ms a step and 1 us a token: every doubling up to here gains more than 3 %
    assert "no CUDA graphs, as asked" in notes
    assert "token budget 16384" in "\n".join(notes)


def test_memory_limits_the_budget(real_sizes: None) -> None:
    def too_large_above_4096(lengths: Sequence[int]) -> float:
        if sum(lengths) > 4096:
            raise OutOfMemoryError("no")
        return law(lengths)

    budget, notes = tuner(too_large_above_4096).run(16_384)
    assert budget == 4096
    assert "a step of 8192 tokens does not fit: memory limits the token budget" in notes


def test_a_measurement_that_fails_costs_a_line(real_sizes: None) -> None:
    def time_step(lengths: Sequence[int]) -> float:
        if sum(lengths) > 4096:
            raise RuntimeError("no kernel image for these shapes")
        return law(lengths)

    budget, notes = tuner(time_step).run(16_384)
    assert budget == 2048
    assert notes[-1] == "token budget 2048, not measured: RuntimeError: no kernel image for these shapes"


def test_nothing_fits(real_sizes: None) -> None:
    def never(lengths: Sequence[int]) -> float:
        raise OutOfMemoryError("no")

    with pytest.raises(OutOfMemoryError, match="not even a step of 512 tokens fits"):
        tuner(never).run(16_384)


@pytest.mark.parametrize("largest", [1, 100, 600])
def test_a_small_budget_of_the_user_is_measured_too(real_sizes: None, largest: int) -> None:
    seen: list[int] = []

    def time_step(lengths: Sequence[int]) -> float:
        seen.append(sum(lengths))
        return law(lengths)

    assert tuner(time_step).run(largest)[0] <= largest
    assert 0 < max(seen) <= largest
