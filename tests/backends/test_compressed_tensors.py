"""8-bit checkpoints are read as the numbers they stand for, and everything not understood is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.backends.base import Backend
from engine.backends.cpu.backend import CpuBackend
from engine.backends.loading.checkpoint import open_model
from engine.backends.loading.fit import check_fit
from engine.backends.loading.safetensors_file import TensorInfo
from engine.backends.worker import Worker
from engine.errors import DeviceError, ModelLoadError
from tests.backends.plans import PlanBuilder, config_of, spec_of
from tests.support.checkpoints import make_qwen3

MAX = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}


def settings(kind: str, strategy: str, **changes: Any) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": kind, "strategy": strategy, "symmetric": True, "dynamic": False}
    known: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": f"{kind}-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights | changes.pop("weights", {})}},
        "ignore": ["lm_head"],
    }
    return known | changes


def compress(folder: Path, kind: str, strategy: str) -> Path:
    """Quantise linear weights as llm-compressor does; returns a twin that holds the same numbers, wide."""
    stored = torch.float8_e4m3fn if kind == "float" else torch.int8
    narrow, wide = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        narrow[name] = wide[name] = tensor
        if tensor.ndim == 2 and "embed" not in name:
            amax = tensor.abs().amax(1, keepdim=True) if strategy == "channel" else tensor.abs().amax().reshape(1)
            scale = (amax / MAX[stored]).bfloat16()
            exact = tensor / scale.float()
            quantized = (exact if kind == "float" else exact.round()).clamp(-MAX[stored], MAX[stored]).to(stored)
            narrow[name], narrow[f"{name}_scale"] = quantized, scale
            narrow[name.replace(".weight", ".input_scale")] = torch.ones(1)
            wide[name] = quantized.float() * scale.float()
    twin = folder.with_name(folder.name + "-wide")
    twin.mkdir()
    save_file(wide, twin / "model.safetensors")
    (twin / "config.json").write_text((folder / "config.json").read_text())
    save_file(narrow, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings(kind, strategy)}))
    return twin


def scores(folder: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend | None = None) -> tuple[np.ndarray, str]:
    monkeypatch.setattr("engine.backends.worker.choose_backend", lambda name: (backend or CpuBackend(), "test"))
    monkeypatch.setenv("ENGINE_CPU_KERNELS", "torch")
    worker = Worker(config_of(kv_cache_tokens=80, budget=64, dtype="float32"), spec_of(folder, max_model_len=64))
    notes = worker.load().notes
    plan = PlanBuilder(80)
    for row in ([5, 9, 14, 3], [8, 2]):
        plan.add(row, read=True)
    return worker.execute(plan.build()).values, " ".join(notes)


@pytest.mark.parametrize("kind", ["float", "int"])
@pytest.mark.parametrize("strategy", ["channel", "tensor"])
def test_weights_are_widened_exactly(tmp_path: Path, monkeypatch, kind: str, strategy: str) -> None:
    folder = make_qwen3(tmp_path / "m", seed=1)
    twin = compress(folder, kind, strategy)
    values, notes = scores(folder, monkeypatch)
    np.testing.assert_array_equal(values, scores(twin, monkeypatch)[0])
    assert "dequantised to float32, since this device does not compute in it" in notes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quant_method": "spqr"}, "quantised with 'spqr'"),
        ({"format": "marlin-24"}, "format 'marlin-24'"),
        ({"weights": {"num_bits": 9}}, "'float', 'channel'"),
        ({"weights": {"strategy": "token"}}, "'token'"),
        ({"weights": {"type": "int"}}, "'int'"),
        ({"config_groups": {}}, "without config_groups"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "rotated"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    make_qwen3(tmp_path)
    with pytest.raises(ModelLoadError, match=words) as caught:
        open_model(str(tmp_path), {"quantization_config": settings("float", "channel", **changes)}, "model.")
    assert "Use one of those, or the original checkpoint" in str(caught.value)


def test_a_plain_checkpoint_has_no_format(tmp_path: Path) -> None:
    make_qwen3(tmp_path)
    assert open_model(str(tmp_path), {"quantization_config": None}, "model.").format is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.pop("model.layers.0.mlp.up_proj.weight_scale"), "no layers.0.mlp.up_proj.weight_scale to read it"),
        (lambda t: t.__setitem__("model.norm.weight_scale", torch.ones(1)), "no 8-bit weight of that name"),
        (lambda t: t["model.layers.1.mlp.up_proj.weight_scale"].zero_(), "not positive numbers"),
        (
            lambda t: t.__setitem__("model.layers.1.mlp.up_proj.weight_scale", torch.ones(3)),
            "expected one number, or one a row",
        ),
    ],
)
def test_damaged_scales_are_named(tmp_path: Path, monkeypatch, damage: Any, words: str) -> None:
    folder = make_qwen3(tmp_path / "m")
    compress(folder, "float", "channel")
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match=words):
        scores(folder, monkeypatch)


def test_eight_bits_without_a_scheme_are_refused(tmp_path: Path, monkeypatch) -> None:
    folder = make_qwen3(tmp_path / "m")
    compress(folder, "float", "channel")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="quantised"):
        scores(folder, monkeypatch)


def tensors_of(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(Path("f"), torch.bfloat16, shape, 0) for name, shape in shapes.items()}


def test_what_would_fit_is_said() -> None:
    tensors = tensors_of(embed=(1000, 1000), linear=(4000, 1000), norm=(1000,))
    capabilities = replace(CpuBackend().capabilities, keeps_narrow_weights=False)

    def message(limit: int) -> str:
        with pytest.raises(DeviceError) as caught:
            check_fit("m", tensors, torch.float32, None, limit, "cpu", capabilities)
        return str(caught.value)

    check_fit("m", tensors, torch.float32, None, 20_004_000, "cpu", capabilities)
    assert "m needs 0.0 GB for its weights in float32, but this process may use 0.0 GB on cpu" in message(20_003_999)
    assert "It would fit with --dtype bfloat16 (0.0 GB) or --quantization int16" in message(15_000_000)
    assert "A model of up to about 0.0 billion parameters would fit like this" in message(1_000)
