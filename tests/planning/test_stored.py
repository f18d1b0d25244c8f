"""``engine plan`` of quantised checkpoints: the bytes that loading them takes, known from config.json alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.backends.cuda.data_sheets import KEEPS_GROUPS
from engine.backends.loading.checkpoint import open_model
from engine.backends.loading.fit import weight_bytes
from engine.entrypoints.planning.model_shape import ModelShape
from tests.planning.test_plan import QWEN_8B, planned
from tests.quantized.packers import quantize_folder
from tests.quantized.test_formats import LAYOUTS, PACKAGES
from tests.support.checkpoints import make_qwen3

GIB = 2**30
FORMATS = [
    "awq", "gptq", "gptq 8 bits", "gptq act order", "auto-round", "fp8 blocks", "modelopt nvfp4", "hqq", "hqq axis 0",
    "nf4 0", "nf4 1", "int8", "pack-quantized", "pack-quantized-asymmetric", "pack-quantized-row", "int-quantized",
    "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized", "float-quantized",
]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_planned_as_it_is_loaded(name: str, tmp_path: Path) -> None:
    folder = make_qwen3(tmp_path / "m", layers=1, hidden=256, head_dim=64, intermediate=512)
    quantize_folder(folder, (LAYOUTS | PACKAGES)[name])
    config = json.loads((folder / "config.json").read_text())
    shape, found = ModelShape.of(config), open_model(str(folder), config, "model.")
    assert shape.stored is not None
    loaded = weight_bytes(found.tensors, torch.bfloat16, None, keeps_narrow=False, keeps_groups=KEEPS_GROUPS)
    in_plan = shape.weight_bytes("bfloat16", None, keeps_groups=KEEPS_GROUPS)
    assert in_plan == pytest.approx(loaded, rel=0.02)
    assert shape.stored.bits == pytest.approx(found.bits_per_weight, rel=0.2)


def test_8b_in_4_bits_is_less_than_5_5_gib_with_head_and_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In groups of 128: an 8B model on a card of 24 GB, beside which the same in bf16 leaves no room."""
    settings = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    (tmp_path / "config.json").write_text(json.dumps(QWEN_8B | {"quantization_config": settings}))
    report = planned(capsys, tmp_path, "--device", "l4", "--max-model-len", "1024")
    assert report["stored"]["words"] == "AWQ, 4 bits in groups of 128"
    own = report["options"][0]
    assert own["fits"]
    assert own["weight_bytes"] + 1024 * 147_456 <= 5.5 * GIB  # keys and values of one pair of 1,024 tokens
    assert any(note.startswith("The linear layers stay in 4 bits, 3.9") for note in report["notes"])


@pytest.mark.parametrize("settings", [{"quant_method": "awq", "bits": "four"}, {"quant_method": "new"}, []])
def test_settings_that_say_nothing_are_left_to_the_loader(settings: object) -> None:
    assert ModelShape.of(QWEN_8B | {"quantization_config": settings}).stored is None
