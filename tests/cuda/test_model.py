"""A whole model on the CUDA backend's ops against transformers: shared prefixes, kept keys, graphs, fp8."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.backends.cuda.linear import Fp8Linear
from engine.backends.nn.decoder import Decoder
from engine.backends.worker import Worker
from engine.model_spec import HeadSpec
from engine.step import SchedulerOutput
from tests.backends.plans import PlanBuilder, config_of, spec_of
from tests.backends.test_compressed_tensors import compress
from tests.cuda.stand_in import StandIn, needs_interpreter
from tests.families.cases import FAMILIES
from tests.support.checkpoints import make_qwen3

pytestmark = [
    needs_interpreter,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]  # NumPy, on rows that are padding
NO_YES = (7, 11)
PREFIX = [5, 9, 14, 3, 8, 21, 30]
DOCUMENTS = [[40, 41, 42, 43, 44], [50], [60, 61, 62]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda") / "qwen3"
    return make_qwen3(folder, hidden=48, heads=4, kv_heads=2, head_dim=16, intermediate=80)


def expected_logits(folder: Path) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        rows = [model(torch.tensor([PREFIX + document])).logits[0, -1] for document in DOCUMENTS]
    return np.array([(row[NO_YES[1]] - row[NO_YES[0]]).item() for row in rows], np.float32)


def load(folder: Path, monkeypatch: pytest.MonkeyPatch, backend: StandIn, **model: Any) -> Worker:
    monkeypatch.setattr("engine.backends.worker.choose_backend", lambda name: (backend, "stand-in"))
    spec = spec_of(folder, head=HeadSpec(kind="from_2_way_softmax", token_ids=NO_YES), max_model_len=64)
    worker = Worker(config_of(kv_cache_tokens=80, budget=64, **model), spec)
    worker.load()
    return worker


def shared_plan(capacity: int) -> SchedulerOutput:
    plan = PlanBuilder(capacity)
    parent = plan.add(PREFIX)
    for document in DOCUMENTS:
        plan.add(document, [parent], read=True)
    return plan.build()


def test_a_shared_prefix_gives_the_scores_of_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = load(checkpoint, monkeypatch, StandIn(), dtype="float32")
    values = worker.execute(shared_plan(80)).values
    np.testing.assert_allclose(values[:, 0], expected_logits(checkpoint), rtol=1e-4, atol=1e-5)


def test_a_decoder_that_sees_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``is_causal: false``, each way of pooling, against the same network on the CPU."""
    folder = FAMILIES["llama_bidirec"].make(tmp_path, "mean, llama3 rope, a temperature")
    plan = PlanBuilder(0)
    for document in DOCUMENTS:
        plan.add(PREFIX + document, read=True)
    for pooling in ("mean", "cls", "last"):
        spec = spec_of(folder, head=HeadSpec(kind="classifier", pooling=pooling), max_model_len=64)
        spec = replace(spec, causal=False)
        on_cpu = Worker(config_of(budget=64, dtype="float32"), spec)
        on_cpu.load()
        expected = on_cpu.execute(plan.build()).values
        monkeypatch.setattr("engine.backends.worker.choose_backend", lambda name: (StandIn(), "stand-in"))
        worker = Worker(config_of(budget=64, dtype="float32"), spec)
        worker.load()
        np.testing.assert_allclose(worker.execute(plan.build()).values, expected, rtol=1e-4, atol=1e-5)
        monkeypatch.undo()


def test_keys_kept_in_one_step_are_read_in_the_next(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = load(checkpoint, monkeypatch, StandIn(), dtype="float32")
    first, second = PlanBuilder(80), PlanBuilder(80)
    first.add(PREFIX, keep_at=11)
    assert worker.execute(first.build(0)).values.shape == (0, 1)
    for document in DOCUMENTS:
        second.add(document, [("slot", 11, len(PREFIX))], read=True)
    values = worker.execute(second.build(1)).values
    np.testing.assert_allclose(values[:, 0], expected_logits(checkpoint), rtol=1e-4, atol=1e-5)


def test_a_recorded_step_equals_an_eager_one(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = StandIn(buckets=[18])
    worker = load(checkpoint, monkeypatch, backend, dtype="float32")
    graphed = backend.graphed
    assert graphed is not None
    values = worker.execute(shared_plan(80)).values
    assert graphed.num_replays == 1
    np.testing.assert_allclose(values[:, 0], expected_logits(checkpoint), rtol=1e-4, atol=1e-5)
    alone = PlanBuilder(80)
    alone.add(PREFIX + DOCUMENTS[1], read=True)  # half of the first step stays behind it
    np.testing.assert_allclose(worker.execute(alone.build()).values[0], values[1], rtol=1e-5, atol=1e-6)
    assert graphed.num_replays == 2


def test_a_recorded_step_keeps_what_a_later_one_reads(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in graphs of other sizes; the slots around the kept ones stay as they were."""
    backend = StandIn(buckets=[64, 24])
    worker = load(checkpoint, monkeypatch, backend, dtype="float32")
    assert worker.runner is not None
    pool = worker.runner.kv_cache
    for tensor in (*pool.keys, *pool.values):
        tensor.fill_(5.0)
    first, second = PlanBuilder(80), PlanBuilder(80)
    first.add(PREFIX, keep_at=11, read=True)
    worker.execute(first.build(0))
    others = [slot for slot in range(80) if not 11 <= slot < 11 + len(PREFIX)]
    assert all(bool((tensor[others] == 5.0).all()) for tensor in (*pool.keys, *pool.values))
    for document in DOCUMENTS:
        second.add(document, [("slot", 11, len(PREFIX))], read=True)
    values = worker.execute(second.build(1)).values
    np.testing.assert_allclose(values[:, 0], expected_logits(checkpoint), rtol=1e-4, atol=1e-5)
    assert backend.graphed is not None
    assert backend.graphed.num_replays == 2


def test_a_step_goes_up_into_the_smallest_graph_that_holds_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = StandIn(buckets=[64, 18])
    worker = load(checkpoint, monkeypatch, backend, dtype="float32")
    worker.execute(shared_plan(80))
    assert backend.graphed is not None
    assert backend.graphed.sizes == [18, 64]
    (small, outputs, _), (large, _, _) = (backend.graphed._graphs[size] for size in (18, 64))
    assert int(small.batch.token_ids.abs().sum()) > 0
    assert outputs[0].shape[0] == len(small.batch.read_rows)
    many = PlanBuilder(80)
    for token in range(19):
        many.add([token + 1], read=True)
    worker.execute(many.build())
    assert large.batch.token_ids[:20].tolist() == [*range(1, 20), 0]


def test_steps_that_no_graph_can_run_are_run_eagerly(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = StandIn(buckets=[8])
    worker = load(checkpoint, monkeypatch, backend, dtype="float32")
    assert backend.graphed is not None
    worker.execute(shared_plan(80))  # more tokens than the largest bucket
    unread = PlanBuilder(80)
    unread.add(PREFIX[:4], keep_at=0)
    worker.execute(unread.build())
    assert backend.graphed.num_replays == 0


def test_fp8_follows_the_unquantised_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_qwen3(tmp_path / "m", hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96)
    exact = expected_logits(folder)
    backend = StandIn()
    worker = load(folder, monkeypatch, backend, dtype="bfloat16", quantization="fp8")
    values = worker.execute(shared_plan(80)).values[:, 0]
    assert backend.ops is not None
    assert backend.ops.fp8
    assert np.abs(values - exact).max() < 0.25 * np.abs(exact).max()
    assert not np.array_equal(values, exact)


@pytest.mark.parametrize("kind", ["float", "int"])
def test_compressed_checkpoints_run_in_fp8_or_widened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_qwen3(tmp_path / "m", layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, intermediate=48)
    compress(folder, kind, "channel")
    backend = StandIn()
    worker = load(folder, monkeypatch, backend, dtype="bfloat16")
    assert backend.ops is not None
    assert backend.ops.fp8 == (kind == "float")
    if kind == "float":
        stored = load_file(folder / "model.safetensors")["model.layers.0.self_attn.o_proj.weight"]
        assert worker.runner is not None
        model = worker.runner.model
        assert isinstance(model, Decoder)
        o_proj = model.last_layer.o_proj.weight
        assert isinstance(o_proj, Fp8Linear)
        assert torch.equal(o_proj.weight.float(), stored.float())  # quantised again, bit for bit
