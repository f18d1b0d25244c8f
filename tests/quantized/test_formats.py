"""Every format read as the numbers that it stands for: against the packages that own it, and the published layouts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.backends.loading.checkpoint import open_model
from engine.backends.loading.parameters import Destination
from engine.backends.loading.safetensors_file import TensorReader
from engine.backends.loading.source import QuantizedTensor
from engine.backends.loading.weights import check_tensors
from engine.errors import ModelLoadError
from tests.quantized import packers
from tests.quantized.packers import Packed
from tests.quantized.reference_packages import COMPRESSED, compressed, eight_bits, four_bits

LAYOUTS: dict[str, Callable[[torch.Tensor], Packed]] = {
    "awq": packers.awq,
    "awq without zero points": partial(packers.awq, zeros_stored=False),
    "gptq": packers.gptq,
    "gptq symmetric": partial(packers.gptq, symmetric=True),
    "gptq 8 bits": partial(packers.gptq, bits=8),
    "gptq 2 bits": partial(packers.gptq, bits=2),
    "gptq v2": partial(packers.gptq, layout="gptq_v2"),
    "gptq act order": partial(packers.gptq, act_order=True),
    "auto-round": packers.auto_round,
    "auto-round plain zeros": partial(packers.auto_round, layout="auto_round"),
    "auto-round awq": partial(packers.auto_round, layout="auto_round:auto_awq"),
    "fp8 blocks": partial(packers.block_fp8, block=128),
    "fp8 exponents": partial(packers.block_fp8, block=32, exponents=True),
    "fp8 tensor": packers.tensor_fp8,
    "modelopt nvfp4": packers.modelopt_nvfp4,
    "modelopt awq": packers.modelopt_awq,
    "hqq": packers.hqq,
    "hqq 8 bits": partial(packers.hqq, bits=8),
    "hqq axis 0": partial(packers.hqq, axis=0),
}
PACKAGES: dict[str, Callable[[torch.Tensor], Packed]] = {
    **{case: partial(compressed, case=case) for case in COMPRESSED},
    **{f"{case} bf16": partial(compressed, case=case, dtype=torch.bfloat16) for case in COMPRESSED},
    **{
        f"{kind} {double}": partial(four_bits, kind=kind, double=double) for kind in ("nf4", "fp4") for double in (0, 1)
    },
    "nf4 bf16": partial(four_bits, kind="nf4", dtype=torch.bfloat16),
    "int8": eight_bits,
}


def write(folder: Path, packed: Packed, module: str = "layers.0.mlp.up_proj") -> QuantizedTensor:
    """One module as a checkpoint, opened."""
    tensors = {f"model.{module}.{ending}": value.contiguous() for ending, value in packed.tensors.items()}
    save_file(tensors, folder / "model.safetensors")
    found = open_model(str(folder), {"quantization_config": packed.settings}, "model.")
    source = found.tensors[f"{module}.weight"]
    assert isinstance(source, QuantizedTensor)
    assert set(found.tensors) == {f"{module}.weight"}, "something was left over"
    return source


def rows(
    source: QuantizedTensor, first: int = 0, last: int | None = None, columns: range | None = None
) -> torch.Tensor:
    with TensorReader() as reader:
        return torch.cat([run.clone() for _, run in source.rows(reader, first, last, columns)])


def test_gptq_in_act_order_that_the_settings_do_not_say(tmp_path: Path) -> None:
    """As where quantize_config.json knew and config.json does not."""
    packed = packers.gptq(torch.randn(96, 256) / 16, act_order=True)
    source = write(tmp_path, packed._replace(settings=packed.settings | {"desc_act": False}))
    assert source.layout is None
    assert torch.equal(rows(source), packed.wide)


def test_each_group_of_compressed_tensors_is_read_by_its_own_scheme(tmp_path: Path) -> None:
    weight = torch.randn(96, 256) / 16
    four, eight, fp8 = (compressed(weight, case) for case in ("pack-quantized", "int-quantized", "float-quantized"))
    modules = {"layers.0.mlp.up_proj": four, "layers.0.self_attn.q_proj": eight, "layers.1.self_attn.q_proj": fp8}
    targets = [["re:.*mlp.*"], ["Linear"], ["model.layers.1.self_attn.q_proj"]]
    groups = {}
    for number, (packed, names) in enumerate(zip(modules.values(), targets, strict=True)):
        (group,) = packed.settings["config_groups"].values()
        groups[f"group_{number}"] = group | {"targets": names, "format": packed.settings["format"]}
    settings = {"quant_method": "compressed-tensors", "format": "mixed-precision", "config_groups": groups}
    settings |= {"kv_cache_scheme": {"num_bits": 8, "type": "float"}, "ignore": ["re:.*lm_head"]}
    stored = {f"model.{name}.{end}": value for name, packed in modules.items() for end, value in packed.tensors.items()}
    stored["model.layers.0.self_attn.k_scale"] = torch.ones(1)
    save_file({name: value.contiguous() for name, value in stored.items()}, tmp_path / "model.safetensors")
    found = open_model(str(tmp_path), {"quantization_config": settings}, "model.")
    assert set(found.tensors) == {f"{name}.weight" for name in modules}
    for name, packed in modules.items():
        assert torch.equal(rows(found.tensors[f"{name}.weight"]).to(packed.wide.dtype), packed.wide)
    groups["group_1"]["targets"] = ["re:.*else.*"]
    with pytest.raises(ModelLoadError, match=r"none of its config_groups names .*layers.0.self_attn.q_proj"):
        open_model(str(tmp_path), {"quantization_config": settings}, "model.")


def test_a_bias_of_zeros_that_the_model_has_not_is_harmless(tmp_path: Path) -> None:
    """AutoGPTQ writes them."""
    packed = packers.gptq(torch.randn(96, 256) / 16)
    name = "layers.0.mlp.up_proj"
    for value in (0.0, 1.0):
        tensors = packed.tensors | {"bias": torch.full((96,), value)}
        save_file({f"model.{name}.{k}": v.contiguous() for k, v in tensors.items()}, tmp_path / "model.safetensors")
        found = open_model(str(tmp_path), {"quantization_config": packed.settings}, "model.")
        wanted = [Destination(f"{name}.weight", (96, 256), lambda first, run: None)]
        with pytest.raises(ModelLoadError, match=r"not part of this model: .*up_proj.bias") if value else nullcontext():
            check_tensors("m", wanted, found.tensors)


@pytest.mark.parametrize("case", [*LAYOUTS, *PACKAGES])
def test_the_numbers_are_those_of_the_format(tmp_path: Path, monkeypatch, case: str) -> None:
    weight = torch.randn(96, 256, generator=torch.Generator().manual_seed(0)) / 16
    packed = (LAYOUTS | PACKAGES)[case](weight)
    source = write(tmp_path, packed)
    assert source.shape == (96, 256)
    found = rows(source)
    assert torch.equal(found.to(packed.wide.dtype), packed.wide), (found - packed.wide).abs().max()
    assert torch.nn.functional.cosine_similarity(found.flatten(), weight.flatten(), dim=0) > 0.85
    # Any run of rows and columns, in runs of any length, is a part of the whole.
    monkeypatch.setattr("engine.backends.loading.source.CHUNK_BYTES", 7 * 4 * 256)
    assert torch.equal(rows(source), found)
    assert torch.equal(rows(source, 13, 50, range(32, 160)), found[13:50, 32:160])


def words(*hexadecimal: str) -> torch.Tensor:
    values = torch.tensor([int(word, 16) for word in hexadecimal])
    return torch.where(values >= 1 << 31, values - (1 << 32), values).int()


def one_row(tmp_path: Path, tensors: dict[str, torch.Tensor], settings: dict) -> torch.Tensor:
    return rows(write(tmp_path, Packed(tensors, torch.empty(0), settings)))


def test_awq_by_hand(tmp_path: Path) -> None:
    found = one_row(
        tmp_path,
        {
            "qweight": words("75316420").view(1, 1),
            "qzeros": words("08888978").view(1, 1),
            "scales": torch.tensor([[0.5, 0.25, 1, 2, 0.5, 0.5, 0.5, 0.25]]).half(),
        },
        {"quant_method": "awq", "bits": 4, "group_size": 1, "zero_point": True, "version": "gemm"},
    )
    assert found.flatten().tolist() == [-4, -1.75, -5, -10, -2.5, -1.5, -1, 1.75]


@pytest.mark.parametrize(
    ("bits", "word", "zeros", "scale", "expected"),
    [
        (4, "fedc3210", "77777777", 0.25, [-2, -1.75, -1.5, -1.25, 1, 1.25, 1.5, 1.75]),
        (8, "ff807f00", "7f7f7f7f", 0.5, [-64, -0.5, 0, 63.5]),
    ],
)
def test_gptq_by_hand(tmp_path: Path, bits: int, word: str, zeros: str, scale: float, expected: list[float]) -> None:
    num_rows = 32 // bits  # so that one word of zero points is whole
    tensors = {
        "qweight": words(word).expand(1, num_rows),
        "qzeros": words(zeros).view(1, 1),
        "scales": torch.full((1, num_rows), scale).half(),
    }
    settings = {"quant_method": "gptq", "bits": bits, "group_size": -1, "sym": True}
    found = one_row(tmp_path, tensors, settings)
    assert found.tolist() == [expected] * num_rows


def test_gptq_zero_points_of_version_1_at_the_top_are_said(tmp_path: Path, caplog) -> None:
    tensors = {
        "qweight": torch.zeros(1, 8, dtype=torch.int32),
        "qzeros": words("ffffffff").view(1, 1),
        "scales": torch.ones(1, 8).half(),
    }
    found = one_row(tmp_path, tensors, {"quant_method": "gptq", "bits": 4, "group_size": -1})
    assert found.unique().tolist() == [-16]
    assert "may have been 0" in caplog.text


def test_compressed_tensors_by_hand(tmp_path: Path) -> None:
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 8}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"a": {"targets": ["re:.*up_proj"], "weights": weights}},
    }
    tensors = {
        "weight_packed": words("fea98710").view(1, 1),
        "weight_scale": torch.tensor([[0.25]]),
        "weight_shape": torch.tensor([1, 8]),
    }
    assert one_row(tmp_path, tensors, settings).tolist() == [[-2, -1.75, -0.25, 0, 0.25, 0.5, 1.5, 1.75]]
    weights["symmetric"] = False
    tensors = {
        "weight_packed": words(*["88888888"] * 8).view(8, 1),
        "weight_scale": torch.ones(8, 1),
        "weight_zero_point": words("ba987654").view(1, 1),
        "weight_shape": torch.tensor([8, 8]),
    }
    assert one_row(tmp_path, tensors, settings)[:, 0].tolist() == [4, 3, 2, 1, 0, -1, -2, -3]


def test_fp4_by_hand(tmp_path: Path) -> None:
    codes = torch.tensor([[0x10, 0x32, 0x54, 0x76] * 2], dtype=torch.uint8)
    expected = [0, 0.125, 0.25, 0.375, 0.5, 0.75, 1, 1.5]
    weights = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16}
    settings = {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized",
        "config_groups": {"a": {"targets": ["Linear"], "weights": weights}},
    }
    half = torch.tensor([[0x30]], dtype=torch.uint8).view(torch.float8_e4m3fn)
    tensors = {"weight_packed": codes, "weight_scale": half, "weight_global_scale": torch.tensor([2.0])}
    assert one_row(tmp_path, tensors, settings).tolist() == [expected * 2]
    settings["format"], weights["strategy"], weights["group_size"] = "mxfp4-pack-quantized", "group", 32
    tensors = {"weight_packed": codes.repeat(1, 2), "weight_scale": torch.tensor([[125]], dtype=torch.uint8)}
    assert one_row(tmp_path, tensors, settings).tolist() == [expected * 4]


def test_hqq_by_hand(tmp_path: Path) -> None:
    tensors = {
        "W_q": torch.tensor([[0x08, 0x19, 0x2A, 0x3B, 0x4C, 0x5D, 0x6E, 0x7F]], dtype=torch.uint8),
        "scale": torch.full((2, 1), 0.25),
        "zero": torch.full((2, 1), 7.5),
        "shape": torch.tensor([2, 8]),
    }
    params = {"nbits": 4, "group_size": 8, "axis": 1}
    settings = {"quant_method": "hqq", "quant_config": {"weight_quant_params": params}}
    found = one_row(tmp_path, tensors, settings)
    assert found[0].tolist() == [(q - 7.5) * 0.25 for q in range(8)]
    assert found[1].tolist() == [(q - 7.5) * 0.25 for q in range(8, 16)]


def test_e4m3_by_hand(tmp_path: Path) -> None:
    codes = torch.tensor([[0x38, 0x3C, 0xB8, 0x7E, 0x01, 0x08, 0x00, 0xC4]], dtype=torch.uint8)
    tensors = {"weight": codes.view(torch.float8_e4m3fn), "weight_scale": torch.tensor(1.0)}
    found = one_row(tmp_path, tensors, {"quant_method": "fp8"})
    assert found.tolist() == [[1, 1.5, -1, 448, 2**-9, 2**-6, 0, -3]]
