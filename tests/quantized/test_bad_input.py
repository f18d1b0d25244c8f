"""Damaged quantised files are refused by the tensor's name, before anything is allocated; and what fuzzing says."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.reliability.fuzz_files import TARGETS, run, small_gguf
from engine.backends.loading.checkpoint import open_model
from engine.backends.loading.formats.gguf import check_no_bias
from engine.checkpoint.gguf.config import config_of
from engine.checkpoint.gguf.header import BLOCK_TYPES, GgufTensor, read_gguf
from engine.errors import ModelLoadError
from tests.quantized import packers
from tests.quantized.packers import Packed
from tests.quantized.reference_packages import compressed, four_bits
from tests.quantized.test_formats import rows, write

MODULE = "model.layers.0.mlp.up_proj"
Tensors = dict[str, torch.Tensor]


def damaged(folder: Path, packed: Packed, change: Callable[[Tensors, dict[str, Any]], object]) -> None:
    write(folder, packed)
    tensors = load_file(folder / "model.safetensors")
    change(tensors, packed.settings)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors")
    open_model(str(folder), {"quantization_config": packed.settings}, "model.")


WEIGHT = torch.randn(96, 256, generator=torch.Generator().manual_seed(0)) / 16


@pytest.mark.parametrize(
    ("packed", "change", "words"),
    [
        (packers.awq(WEIGHT), lambda t, s: t.pop(f"{MODULE}.scales"), "no layers.0.mlp.up_proj.scales to read it"),
        (packers.awq(WEIGHT), lambda t, s: t.pop(f"{MODULE}.qzeros"), "up_proj.qzeros"),
        (packers.awq(WEIGHT), lambda t, s: s.update(group_size=64), r"up_proj.scales has the shape \(8, 96\)"),
        (packers.awq(WEIGHT), lambda t, s: s.update(version="gemv"), "AWQ, version 'gemv'"),
        (packers.awq(WEIGHT), lambda t, s: s.update(bits=None), "no whole number as bits"),
        (packers.awq(WEIGHT), lambda t, s: s.update(version="marlin"), "AWQ, version 'marlin'"),
        (packers.gptq(WEIGHT, act_order=True), lambda t, s: t.pop(f"{MODULE}.g_idx"), "act order .desc_act., but no"),
        (packers.gptq(WEIGHT), lambda t, s: s.update(is_marlin_format=True), "format 'marlin'"),
        (
            compressed(WEIGHT, "pack-quantized"),
            lambda t, s: s.update(sparsity_config={"format": "sparse-24-bitmask"}),
            "sparse, which is not supported",
        ),
        (packers.gptq(WEIGHT), lambda t, s: s.update(bits=3), "GPTQ to 3 bits"),
        (packers.gptq(WEIGHT), lambda t, s: s.update(bits=8), "which is not that of 8 bits"),
        (packers.gptq(WEIGHT), lambda t, s: s.update(checkpoint_format="marlin"), "format 'marlin'"),
        (packers.gptq(WEIGHT), lambda t, s: t.update({f"{MODULE}.g_idx": torch.zeros(3).int()}), "up_proj.g_idx"),
        (
            packers.block_fp8(WEIGHT),
            lambda t, s: s.update(weight_block_size=[64, 64]),
            "weight_scale_inv has the shape",
        ),
        (packers.block_fp8(WEIGHT), lambda t, s: s.update(weight_block_size="128"), "expected two numbers"),
        (packers.modelopt_awq(WEIGHT), lambda t, s: t.update({f"{MODULE}.svdquant_lora_a": torch.ones(1)}), "svdquant"),
        (packers.hqq(WEIGHT), lambda t, s: t.pop(f"{MODULE}.shape"), "no layers.0.mlp.up_proj.shape"),
        (compressed(WEIGHT, "pack-quantized"), lambda t, s: t[f"{MODULE}.weight_shape"].add_(8), "weight_packed has"),
        (four_bits(WEIGHT, "nf4"), lambda t, s: t.pop(f"{MODULE}.weight.nested_absmax"), "weight.nested_absmax"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, packed: Packed, change: Any, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        damaged(tmp_path, packed, change)


def test_groups_beyond_the_stored_ones_are_named(tmp_path: Path) -> None:
    packed = packers.gptq(WEIGHT, act_order=True)
    packed.tensors["g_idx"][5] = 99
    with pytest.raises(ModelLoadError, match="g_idx names groups"):
        rows(write(tmp_path, packed))


def test_scales_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    packed = packers.awq(WEIGHT)
    packed.tensors["scales"] = packed.tensors["scales"].clone()
    packed.tensors["scales"][1, 7] = torch.inf
    with pytest.raises(ModelLoadError, match=r"layers.0.mlp.up_proj of .*scales hold infinities"):
        rows(write(tmp_path, packed))


def test_a_header_that_asks_for_terabytes_is_refused(tmp_path: Path) -> None:
    data, path = bytearray(small_gguf()), tmp_path / "m.gguf"
    sides = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4
    data[sides : sides + 16] = struct.pack("<QQ", 1 << 40, 1 << 20)
    path.write_bytes(data)
    with pytest.raises(ModelLoadError, match=r"'blk.0.attn_q.weight' should end at byte .* cut off"):
        read_gguf(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60))
    with pytest.raises(ModelLoadError, match="speaks of 1,152,921,504,606,846,976 tensors"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-100], "cut off"),
        (lambda data: data[:60], "goes on beyond|speaks of 4 tensors"),
        (lambda data: b"GGML" + data[4:], "does not begin like a GGUF file"),
        (lambda data: data[:4] + struct.pack("<I", 9) + data[8:], "GGUF of version 9"),
        (lambda data: data.replace(struct.pack("<QQI", 256, 8, 12), struct.pack("<QQI", 256, 8, 16)), "IQ2_XXS"),
        (lambda data: data.replace(struct.pack("<QQI", 256, 8, 12), struct.pack("<QQI", 256, 8, 99)), "number 99"),
        (lambda data: data[:4] + struct.pack(">I", 3) + data[8:], "big endian"),
        (lambda data: data.replace(b"qwen3.context_length", b"general.architecture"), "'general.architecture' twice"),
        (lambda data: data.replace(b"cls.output.weight", b"token_embd.weight"), "'token_embd.weight' twice"),
        (
            lambda data: data.replace(struct.pack("<QQI", 256, 8, 12), struct.pack("<QQI", 250, 8, 12)),
            "no multiple of 256",
        ),
    ],
)
def test_damaged_gguf_files_say_what_is_wrong(tmp_path: Path, change: Any, words: str) -> None:
    (tmp_path / "m.gguf").write_bytes(change(small_gguf()))
    with pytest.raises(ModelLoadError, match=words):
        read_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"general.type": "adapter"}, "of the type 'adapter'"),
        ({"general.architecture": "clip"}, "architecture 'clip' is not supported"),
        ({"qwen3.rope.dimension_count": 32}, "of 64 dimensions of a head it rotates 32"),
        ({"qwen3.attention.value_length": 128}, "or values have others"),
        ({"qwen3.rope.scaling.attn_factor": 1.2}, "rope.scaling.attn_factor 1.2 is not supported"),
        ({"qwen3.attention.head_count_kv": [4, 2]}, "expected one number for all layers"),
    ],
)
def test_gguf_files_of_other_networks_are_refused(tmp_path: Path, metadata: dict[str, Any], words: str) -> None:
    (tmp_path / "m.gguf").write_bytes(small_gguf())
    file = read_gguf(tmp_path / "m.gguf")
    assert config_of(file)["head_dim"] == 64
    with pytest.raises(ModelLoadError, match=words):
        config_of(replace(file, metadata=file.metadata | metadata))


def test_a_bias_of_labels_in_gguf_is_refused_unless_it_is_zero(tmp_path: Path) -> None:
    data = small_gguf()
    for bias, refused in ((0.0, False), (0.5, True)):
        place = len(data)
        path = tmp_path / "m.gguf"
        path.write_bytes(data + struct.pack("<2f", bias, bias))
        tensor = GgufTensor(path, BLOCK_TYPES[0], (2,), place)
        file = read_gguf(path)
        with pytest.raises(ModelLoadError, match="a head with a bias") if refused else nullcontext():
            check_no_bias(replace(file, tensors=file.tensors | {"cls.output.bias": tensor}), "cls.output.bias", tensor)


def test_random_damage_ends_in_numbers_or_a_refusal() -> None:
    """A short part of ``python -m benchmarks.reliability.fuzz_files``."""
    ended = run(1500, seed=1, seconds=60)
    assert {name.split(":")[0] for name in ended} == set(TARGETS)
