"""Each fused operator that is missing or wrong is found at start and done without, and the scores stay right."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_npu

from engine.backends.crash_records import CrashRecords, cache_folder
from engine.backends.npu import self_test
from engine.backends.npu.self_test import try_ops
from engine.backends.self_test import Outcome, as_table, relative_difference, require_all
from engine.backends.worker import Worker
from engine.errors import DeviceError
from engine.kernels.npu.forms import Forms
from engine.kernels.npu.ops import NpuOps
from engine.kernels.npu.soc import Soc
from engine.kernels.ops import LayerShape
from tests.backends.test_parity import Setting
from tests.backends.test_parity import _transformers_model as transformers_model
from tests.npu.on_device import workers
from tests.npu.on_device.recording import recording
from tests.support.checkpoints import make_bert, make_qwen3

FIA, FUSION = "npu_fused_infer_attention_score", "npu_fusion_attention"
SHAPE = LayerShape(
    hidden=64, intermediate=96, num_heads=4, num_kv_heads=2, head_dim=128, scale=128**-0.5, causal=True, gated=True,
    hidden_act="silu", rms_norm=True, eps=1e-6,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("qwen3"), seed=5, head_dim=128, heads=4, kv_heads=2, layers=2)


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    prefix, documents = workers.random_texts()
    worker = workers.load_worker(folder, dtype="float32")
    return Setting(worker, transformers_model(folder), 0.0, prefix, documents).expected_of_all


def forms_of(worker: Worker) -> Forms:
    backend: Any = worker._backend
    return backend._ops.forms


def load(folder: Path, **model: Any) -> tuple[Worker, tuple[str, ...]]:
    worker = workers.load_worker(folder, **model)
    return worker, worker.info.notes  # type: ignore[attr-defined]


BROKEN: list[tuple[dict[str, str], dict[str, str], str | None]] = [
    ({f"{FIA}:block_table": "wrong"}, {"attention": "gathered"}, None),
    ({f"{FIA}:block_table": "error"}, {"attention": "gathered"}, None),
    ({FIA: "error"}, {"attention": "npu_fusion_attention"}, None),
    ({FIA: "wrong", FUSION: "error"}, {"attention": "plain torch"}, None),
    ({"npu_apply_rotary_pos_emb": "wrong"}, {"rotation": "one by one", "rotation_of_one": "npu_rotary_mul"}, None),
    (
        {"npu_apply_rotary_pos_emb": "error", "npu_rotary_mul": "wrong"},
        {"rotation": "one by one", "rotation_of_one": "plain torch"},
        None,
    ),
    ({"npu_rms_norm": "wrong"}, {"rms_norm": "plain torch"}, None),
    ({"npu_add_rms_norm": "error"}, {"add_rms_norm": "plain torch"}, None),
    ({"npu_swiglu": "wrong"}, {"swiglu": "plain torch"}, None),
    ({"npu_swiglu_quant": "wrong"}, {"swiglu_quant": "in two steps"}, "w8a8"),
    ({"npu_dynamic_quant": "error"}, {"quantize": "plain torch"}, "w8a8"),
    ({"npu_add_rms_norm_dynamic_quant": "wrong"}, {"add_rms_norm_quant": "in two steps"}, "w8a8"),
    ({"npu_quant_matmul": "error"}, {"product": "plain torch"}, "w8a8"),
    ({"npu_format_cast": "error"}, {"product": "npu_quant_matmul on ND"}, "w8a8"),
]


@pytest.mark.parametrize(("broken", "forms", "quantization"), BROKEN, ids=[" ".join(b[0]) for b in BROKEN])
def test_what_does_not_work_is_done_without(
    broken: dict[str, str],
    forms: dict[str, str],
    quantization: str | None,
    folder: Path,
    expected: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    simulator: Any,
) -> None:
    monkeypatch.setattr(simulator, "broken", broken)
    worker, notes = load(folder, dtype="float16", quantization=quantization)
    assert {name: getattr(forms_of(worker), name) for name in forms} == forms
    used = workers.shared_prefix(*workers.random_texts())
    with recording() as log:
        got = workers.probabilities(worker, used)
    np.testing.assert_allclose(got, expected, atol=5e-2 if quantization else 2e-3, rtol=0)
    for key in broken:
        if ":" not in key:
            assert f"npu::{key}" not in log
        assert any("; not " in note for note in notes), notes


def test_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    monkeypatch.setattr(simulator, "broken", {"npu_swiglu": "wrong", f"{FIA}:block_table": "error"})
    _, notes = load(folder, dtype="bfloat16")
    lines = "\n".join(notes)
    assert "self-test of the operators against plain torch" in lines
    assert "  rms_norm         npu_rms_norm" in lines
    assert (
        "; not block table: RuntimeError: call aclnn of npu_fused_infer_attention_score failed, error code is" in lines
    )
    assert "; not npu_swiglu: " in lines
    assert "away from plain torch" in lines


def test_it_can_be_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("was not to run")

    monkeypatch.setattr(self_test, "try_ops", fail)
    with pytest.raises(AssertionError, match="not to run"):
        load(folder, dtype="float16")
    worker, notes = load(folder, dtype="float16", skip_self_test=True)
    assert not any("self-test" in note for note in notes)
    assert forms_of(worker).attention == "block table"


def test_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, simulator: Any) -> None:
    make_bert(tmp_path)
    monkeypatch.setattr(simulator, "broken", {"npu_gelu": "wrong"})
    worker, notes = load(tmp_path, dtype="float16", spec={"max_model_len": 64})
    assert forms_of(worker).gelu == "plain torch"
    assert forms_of(worker).attention == "npu_fusion_attention"
    assert any(note.startswith("  gelu") and "not npu_gelu" in note for note in notes), notes


def new_ops() -> NpuOps:
    return NpuOps(torch.device("npu", 0), torch.float16, Soc(torch_npu.npu.get_device_name()))


def test_what_took_the_device_along_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, simulator: Any, tmp_path: Path
) -> None:
    """The file that the first process left is found by the second; here both are this one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(simulator, "broken", {"npu_swiglu": "lost"})
    with pytest.raises(RuntimeError, match="507015"):
        try_ops(new_ops(), SHAPE)
    simulator.lost = None
    forms, outcomes = try_ops(new_ops(), SHAPE)
    assert forms.swiglu == "plain torch"
    (problem,) = next(outcome.problems for outcome in outcomes if outcome.op == "swiglu")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert problem == f"npu_swiglu: the process that tried it last ended; remove {file} to try again"
    file.unlink()
    simulator.broken = {}
    assert try_ops(new_ops(), SHAPE)[0].swiglu == "npu_swiglu"


def test_suspects(tmp_path: Path) -> None:
    crash_records = CrashRecords(tmp_path / "new")
    with crash_records.trying("a form", lambda error: False):
        (file,) = (tmp_path / "new").iterdir()
    assert not file.exists()
    with pytest.raises(ValueError, match="refused"), crash_records.trying("a form", lambda error: False):
        raise ValueError("refused")
    assert crash_records.why_not("a form") is None
    (tmp_path / "new" / f"a-form.{os.getppid()}").touch()  # somebody is trying it right now
    assert crash_records.why_not("a form") is None
    (tmp_path / "new" / "a-form.4194399").touch()
    assert "to try again" in (crash_records.why_not("a form") or "")
    assert crash_records.why_not("another form") is None


def test_who_lost_the_device_is_a_suspect_while_its_process_still_ends(tmp_path: Path) -> None:
    """The worker in its place starts meanwhile; and a process that nobody has waited for yet has ended too."""
    crash_records = CrashRecords(tmp_path)
    with pytest.raises(ValueError, match="lost"), crash_records.trying("a form", lambda error: True):
        raise ValueError("lost")
    assert [path.name for path in tmp_path.iterdir()] == ["a-form.lost"]
    assert "to try again" in (crash_records.why_not("a form") or "")
    zombie = subprocess.Popen(["true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / f"b-form.{zombie.pid}").touch()
    assert "to try again" in (crash_records.why_not("b form") or "")
    zombie.wait()


def test_where_nothing_can_be_written_nothing_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    crash_records = CrashRecords(tmp_path / "file" / "folder")
    with crash_records.trying("a form", lambda error: True):
        pass
    assert crash_records.why_not("a form") is None


def test_the_cache_is_where_the_user_keeps_such_things(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("self-test", "Ascend910B3 torch_npu 2.12.0") == (
        tmp_path / "rerank-engine" / "self-test" / "Ascend910B3-torch_npu-2.12.0"
    )


def test_a_device_without_any_right_form_is_refused() -> None:
    wrong = Outcome("swiglu", "(96, 192)", None, 0.7, 0.008, ("plain torch: 0.7 away from plain torch",))
    with pytest.raises(DeviceError, match=r"swiglu at \(96, 192\).*0\.7 away.*--skip-self-test"):
        require_all([wrong], "Ascend910B3")
    assert "NONE" in "\n".join(as_table("", [wrong]))


def test_differences() -> None:
    x = torch.tensor([1.0, -4.0])
    assert relative_difference(x + torch.tensor([0.0, 0.4]), x) == pytest.approx(0.1)
    assert np.isnan(relative_difference(torch.tensor([1.0, float("nan")]), x))
    assert relative_difference(torch.ones(3), x) == float("inf")
