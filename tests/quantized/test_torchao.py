"""torchao's safetensors: what the header's metadata describes is read, what no file format says is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.backends.loading.checkpoint import open_model
from engine.errors import ModelLoadError
from tests.quantized.test_formats import rows

MODULE = "model.layers.0.mlp.up_proj"
WEIGHT = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))


def write(
    folder: Path, kind: str, parts: dict[str, torch.Tensor], block: Any, metadata: dict[str, str] | None = None
) -> None:
    entry = {"_type": kind, "_data": {"block_size": block}, "_tensor_data_names": list(parts)}
    found = {f"{MODULE}.weight": json.dumps(entry), "tensor_names": json.dumps([f"{MODULE}.weight"])}
    tensors = {f"{MODULE}._weight_{name}": tensor for name, tensor in parts.items()}
    save_file(tensors, folder / "model.safetensors", found if metadata is None else metadata)


def opened(folder: Path) -> Any:
    return open_model(str(folder), {"quantization_config": {"quant_method": "torchao"}}, "model.")


@pytest.mark.parametrize("shape", [(6, 1), (1, 1), (6, 4)], ids=["a row", "a tensor", "groups of 8"])
@pytest.mark.parametrize("kind", ["Float8Tensor", "Int8Tensor", "IntxUnpackedToInt8Tensor"])
def test_the_numbers_are_values_times_scales(kind: str, shape: tuple[int, int], tmp_path: Path) -> None:
    block = [6 // shape[0], 32 // shape[1]]
    scale = WEIGHT.unflatten(0, (-1, block[0])).unflatten(2, (-1, block[1])).abs().amax((1, 3)) / 100
    wide = scale.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    steps = WEIGHT / wide
    codes = steps.to(torch.float8_e4m3fn) if kind == "Float8Tensor" else steps.round().to(torch.int8)
    parts, expected = {"qdata": codes, "scale": scale}, codes.float() * wide
    if kind == "IntxUnpackedToInt8Tensor":
        zeros = torch.arange(scale.numel(), dtype=torch.int8).view(scale.shape) - 3
        parts["zero_point"] = zeros
        expected = (codes.float() - zeros.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)) * wide
    write(tmp_path, kind, parts, block)
    checkpoint = opened(tmp_path)
    assert checkpoint.format is not None
    assert checkpoint.format.words == f"torchao, {kind}"
    assert set(checkpoint.tensors) == {f"{MODULE.removeprefix('model.')}.weight"}
    assert torch.equal(rows(checkpoint.tensors[f"{MODULE.removeprefix('model.')}.weight"]), expected)


@pytest.mark.parametrize(
    ("kind", "block", "more", "metadata", "problem"),
    [
        ("Int4Tensor", [1, 32], (), None, "torchao's Int4Tensor in layers.0.mlp.up_proj, which is not supported"),
        ("Int8Tensor", [1, 32], ("act_pre_scale",), None, "with scales of activations"),
        ("Int8Tensor", None, (), None, "no block_size of two sides"),
        ("Int8Tensor", [1, 0], (), None, "blocks of 1 x 0 are impossible"),
        ("Int8Tensor", [1, 8], (), None, "_weight_scale has the shape"),
        ("Float8Tensor", [1, 32], (), None, "_weight_qdata is int8; expected float8_e4m3fn"),
        ("Int8Tensor", [1, 32], (), {"format": "pt"}, "does not say what layers.0.mlp.up_proj._weight_qdata is"),
        ("Int8Tensor", [1, 32], (), {f"{MODULE}.weight": "{"}, "not what torchao writes"),
        ("Int8Tensor", [1, 32], (), {f"{MODULE}.weight": "[]"}, "not what torchao writes"),
    ],
)
def test_what_is_not_understood_is_refused(
    kind: str, block: Any, more: tuple[str, ...], metadata: dict[str, str] | None, problem: str, tmp_path: Path
) -> None:
    parts = {"qdata": torch.zeros(6, 32, dtype=torch.int8), "scale": torch.ones(6, 1)}
    write(tmp_path, kind, parts | {name: torch.ones(1) for name in more}, block, metadata)
    with pytest.raises(ModelLoadError) as refused:
        opened(tmp_path)
    assert problem in str(refused.value)
