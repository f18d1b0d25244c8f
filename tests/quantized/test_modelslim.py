"""msModelSlim's W8A8, static and dynamic, by the published layout: the same numbers, whole models, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import LLM
from engine.backends.loading.checkpoint import open_model
from engine.backends.loading.safetensors_file import TensorReader
from engine.errors import ModelLoadError
from tests.support.checkpoints import make_qwen3, official_qwen3_scores

QUERY = "How do plants make food?"
DOCUMENTS = ["Photosynthesis turns light into sugar.", "The engine was repaired.", "Ein Satz auf Deutsch."]
Tensors = dict[str, torch.Tensor]


def dynamic(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    scale = weight.float().abs().amax(1, keepdim=True) / 127
    codes = (weight.float() / scale).round().to(torch.int8)
    return {"weight": codes, "weight_scale": scale, "weight_offset": torch.zeros_like(scale)}, codes.float() * scale


def static(weight: torch.Tensor, *, as_integers: bool = False) -> tuple[Tensors, torch.Tensor]:
    """A power of two as the activations' scale, so that dividing by it is exact."""
    parts, wide = dynamic(weight)
    codes, scale, offset = parts["weight"], parts["weight_scale"].flatten(), 5
    factor = 0.125
    deq = scale * factor
    tensors = {
        "weight": codes,
        "deq_scale": deq.view(torch.int32).long() if as_integers else deq,
        "input_scale": torch.tensor([factor]),
        "input_offset": torch.tensor([float(offset)]),
        "quant_bias": (-offset * codes.long().sum(1)).int(),
    }
    return tensors, wide


def as_integers(weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    return static(weight, as_integers=True)


PACKS = {"W8A8_DYNAMIC": dynamic, "W8A8": static, "W8A8 of float16": as_integers}


def make(folder: Path, kind: str, **shape: Any) -> Path:
    """The quantised checkpoint in ``folder``; returns its plain twin."""
    make_qwen3(folder, seed=4, **({"hidden": 128, "head_dim": 32, "intermediate": 192} | shape))
    twin = make_qwen3(
        folder.with_name("twin"), seed=4, **({"hidden": 128, "head_dim": 32, "intermediate": 192} | shape)
    )
    narrow, wide = {}, {}
    description = {"model_quant_type": kind.split()[0], "version": "1.0.0"}
    for name, tensor in load_file(folder / "model.safetensors").items():
        quantised = ".layers." in name and tensor.ndim == 2
        parts, wide[name] = PACKS[kind](tensor) if quantised else ({"weight": tensor}, tensor)
        for ending, value in parts.items():
            stored = f"{name.removesuffix('.weight')}.{ending}" if quantised else name
            narrow[stored] = value.contiguous()
            description[stored] = kind.split()[0] if quantised else "FLOAT"
    (folder / "model.safetensors").unlink()
    save_file(narrow, folder / "quant_model_weight_w8a8.safetensors", {"format": "pt"})
    save_file({k: v.contiguous() for k, v in wide.items()}, twin / "model.safetensors", {"format": "pt"})
    (folder / "quant_model_description.json").write_text(json.dumps(description))
    return twin


@pytest.mark.parametrize("kind", PACKS)
def test_scores_are_those_of_the_same_numbers_in_transformers(tmp_path: Path, kind: str) -> None:
    twin = make(tmp_path / "m", kind)
    with LLM(str(tmp_path / "m"), device="cpu") as llm:
        assert any("msModelSlim W8A8" in note for note in llm.info.notes), llm.info.notes
        scores = [output.outputs.score for output in llm.score(QUERY, DOCUMENTS)]
    assert scores == pytest.approx(official_qwen3_scores(twin, QUERY, DOCUMENTS), abs=1e-5)


def one(folder: Path, tensors: Tensors, description: dict[str, Any]) -> torch.Tensor:
    save_file({f"model.{name}": value for name, value in tensors.items()}, folder / "quant_model_weight.safetensors")
    (folder / "quant_model_description.json").write_text(json.dumps(description))
    found = open_model(str(folder), {}, "model.")
    with TensorReader() as reader:
        return torch.cat([run.clone() for _, run in found.tensors["a.weight"].rows(reader)])


def worked_example() -> Tensors:
    """Section 10 of msModelSlim's layout: codes 3 and -2, scales 0.1 and 0.02, offset 5, bias 1."""
    return {
        "a.weight": torch.tensor([[3, -2]], dtype=torch.int8),
        "a.deq_scale": torch.tensor([0.002]),
        "a.input_scale": torch.tensor([0.1]),
        "a.input_offset": torch.tensor([5.0]),
        "a.quant_bias": torch.tensor([495], dtype=torch.int32),
        "a.bias": torch.tensor([1.0]),
    }


def test_by_hand(tmp_path: Path) -> None:
    found = one(tmp_path, worked_example(), {"model.a.weight": "W8A8", "model.a.bias": "W8A8"})
    assert found.flatten().tolist() == pytest.approx([0.06, -0.04], rel=1e-6)


Change = Callable[[Tensors, dict[str, Any]], object]
REFUSED: list[tuple[Change, str]] = [
    (lambda t, d: t.pop("a.bias"), "its bias is stored in quant_bias alone"),
    (lambda t, d: t.pop("a.deq_scale"), "no a.deq_scale"),
    (lambda t, d: t.update({"a.deq_scale": torch.tensor([float("nan")])}), "infinities or NaN"),
    (lambda t, d: t.update({"a.deq_scale": torch.tensor([0.0])}), "not positive"),
    (lambda t, d: t.update({"a.quant_bias": torch.tensor([1, 2], dtype=torch.int32)}), "the shape"),
    (lambda t, d: t.update({"a.weight": torch.ones(1, 2)}), "a.weight is float32; expected int8"),
    (lambda t, d: d.update({"model.a.weight": "W4A8_DYNAMIC"}), "W4A8_DYNAMIC"),
    (lambda t, d: d.update({"model.a.weight": "FLOAT"}), "names no quantised weight"),
    (lambda t, d: d.update({"optional": {"quarot": {}}}), "optional"),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_refused(tmp_path: Path, change: Change, reason: str) -> None:
    tensors, description = worked_example(), {"model.a.weight": "W8A8"}
    change(tensors, description)
    with pytest.raises(ModelLoadError, match=reason):
        one(tmp_path, tensors, description)


def test_zero_points_are_refused(tmp_path: Path) -> None:
    parts, _ = dynamic(torch.randn(4, 8))
    tensors = {f"a.{ending}": value for ending, value in parts.items()}
    assert one(tmp_path, tensors, {"model.a.weight": "W8A8_DYNAMIC"}).shape == (4, 8)
    tensors["a.weight_offset"][2] = 3
    with pytest.raises(ModelLoadError, match="sign is not documented"):
        one(tmp_path, tensors, {"model.a.weight": "W8A8_DYNAMIC"})


def test_a_config_that_says_ascend_without_a_description_is_refused(tmp_path: Path) -> None:
    save_file(worked_example(), tmp_path / "model.safetensors")
    with pytest.raises(ModelLoadError, match="names no quantised weight"):
        open_model(str(tmp_path), {"quantization_config": {"quant_method": "ascend"}}, "model.")
