"""``engine plan`` of quantised checkpoints: the bytes that loading them takes, known from config.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.backends.cuda.data_sheets import KEEPS_GROUPS
from engine.backends.loading.checkpoint import open_model
from engine.backends.loading.fit import weight_bytes
from engine.checkpoint.gguf.folder import folder_of
from engine.entrypoints.planning.model_shape import ModelShape
from tests.planning.test_plan import QWEN_8B, planned
from tests.quantized.gguf_writer import write_gguf
from tests.quantized.packers import quantize_folder
from tests.quantized.test_formats import LAYOUTS, PACKAGES
from tests.quantized.test_modelslim import make as make_modelslim
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


CPU = {4: (None,), 8: (None,)}


def assert_planned_as_loaded(folder: Path, config: dict[str, Any], words: str) -> ModelShape:
    shape, found = ModelShape.of(config, folder), open_model(str(folder), config, "model.")
    assert shape.stored is not None
    assert shape.stored.words == words
    assert shape.stored.bits == pytest.approx(found.bits_per_weight, rel=0.2)
    loaded = weight_bytes(found.tensors, torch.float32, None, keeps_narrow=True, keeps_groups=CPU)
    assert shape.weight_bytes("float32", None, keeps_narrow=True, keeps_groups=CPU) == pytest.approx(loaded, rel=0.02)
    return shape


def test_gguf_is_planned_by_the_types_of_its_tensors(tmp_path: Path) -> None:
    make_qwen3(tmp_path / "m", layers=2, hidden=256, head_dim=64, intermediate=512)
    kinds = {"ffn_down": "Q6_K", "token_embd": "F32"}
    path, _ = write_gguf(
        tmp_path / "m", lambda name: next((kind for part, kind in kinds.items() if part in name), "Q4_K"),
        with_twin=False, general__name="Qwen3-Reranker-0.6B",
    )  # fmt: skip
    folder = folder_of(path)
    config = json.loads((folder / "config.json").read_text())
    shape = assert_planned_as_loaded(folder, config, "GGUF Q4_K; GGUF Q6_K")
    assert shape.stored is not None
    assert shape.stored.left_plain == pytest.approx(0)


def test_modelslim_is_planned_by_its_description(tmp_path: Path) -> None:
    make_modelslim(tmp_path / "m", "W8A8_DYNAMIC", hidden=256, head_dim=64, intermediate=512)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert_planned_as_loaded(tmp_path / "m", config, "msModelSlim W8A8_DYNAMIC, 8 bits, a scale a row")


def test_each_group_of_compressed_tensors_counts_and_what_is_left_alone() -> None:
    four = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128}
    groups = {
        "attention": {
            "targets": ["re:.*self_attn.*"],
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel"},
        },
        "others": {"targets": ["Linear"], "weights": four},
    }
    settings = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}
    settings |= {"ignore": ["lm_head", "model.layers.0.mlp.down_proj"]}
    shape = ModelShape.of(QWEN_8B | {"quantization_config": settings})
    assert shape.stored is not None
    attention, others = shape.stored.parts
    assert attention.share * shape.linear_params == pytest.approx(36 * 4096 * (4096 + 4096 + 2 * 1024), rel=0.01)
    assert (attention.bits, attention.kept, others.kept) == (8, (8, 1.0), (4, 0.5 + 4 / 128))
    assert shape.stored.left_plain * shape.linear_params == pytest.approx(4096 * 12288, rel=0.01)


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
