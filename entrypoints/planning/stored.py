"""What a quantised checkpoint's weights take, from ``quantization_config`` alone: before anything is downloaded.

The same facts as ``backends/loading/formats`` finds in the tensors, for whole models; modules that a file leaves alone
are counted as if they were quantised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from engine.config import grouped_bytes


class StoredWeights(NamedTuple):
    """The stored weights of the linear layers."""

    words: str
    bits: float
    """A weight, scales included, in the file."""
    kept_bytes: float | None
    """A weight takes where a device keeps it in 4 bits; None: it is dequantised."""


def stored_weights(config: Mapping[str, Any]) -> StoredWeights | None:
    """The stored weights; None for a plain checkpoint, and for one whose settings do not say."""
    settings = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(settings, Mapping):
        return None
    method = str(settings.get("quant_method", "")).removeprefix("intel/")
    reader = _READERS.get(method)
    try:
        return None if reader is None else reader(method, settings)
    except (TypeError, ValueError, ZeroDivisionError, AttributeError):  # the loader names what is wrong with them
        return None


def _integers(method: str, settings: Mapping[str, Any]) -> StoredWeights:
    """AWQ, GPTQ, AutoRound: 16 bits of scale and a zero point for each group."""
    bits = int(settings.get("bits") or settings.get("w_bit") or 4)
    group = int(settings.get("group_size") or settings.get("q_group_size") or 128)
    return _grouped(method.upper(), bits, group, 16 + bits, offsets=True, kept=not settings.get("desc_act"))


def _grouped(
    name: str, bits: int, group: int, scale_bits: float, *, offsets: bool = False, kept: bool = True
) -> StoredWeights:
    """``group`` -1: the whole row, whose scale is not worth counting."""
    whole = group <= 0
    words = f"{name}, {bits} bits" + (" with a scale a row" if whole else f" in groups of {group}")
    overhead = 0.0 if whole else scale_bits / group
    kept_bytes = 0.5 if whole else grouped_bytes(group, has_offsets=offsets)
    return StoredWeights(words, bits + overhead, kept_bytes if kept and bits == 4 else None)


def _compressed(method: str, settings: Mapping[str, Any]) -> StoredWeights | None:
    groups = list(settings["config_groups"].values())
    weights = groups[0]["weights"]
    layout = str(settings.get("format") or groups[0].get("format"))
    bits, group = int(weights["num_bits"]), int(weights.get("group_size") or -1)
    if weights.get("strategy") in ("channel", "tensor", "block"):
        group = -1
    scale_bits = 8 if layout.startswith(("nvfp4", "mx")) else 16
    asymmetric = weights.get("symmetric") is False
    by_index = weights.get("actorder") == "group"
    return _grouped(
        f"compressed-tensors {layout}", bits, group, scale_bits + bits * asymmetric, offsets=asymmetric,
        kept=not by_index,
    )  # fmt: skip


def _fp8(method: str, settings: Mapping[str, Any]) -> StoredWeights:
    block = settings.get("weight_block_size")
    return StoredWeights(f"fp8{f' in blocks of {block}' if block else ''}", 8, None)


def _modelopt(method: str, settings: Mapping[str, Any]) -> StoredWeights:
    name = str(settings.get("quant_algo") or "")
    known = {"NVFP4": (4, 16, 8), "W4A16_NVFP4": (4, 16, 8), "MXFP4": (4, 32, 8), "MXFP8": (8, 32, 8)}
    if name in known:
        return _grouped(f"modelopt {name}", *known[name])
    return StoredWeights(f"modelopt {name}", 4 if name.startswith("W4") else 8, None)


def _bitsandbytes(method: str, settings: Mapping[str, Any]) -> StoredWeights:
    if not (settings.get("load_in_4bit") or settings.get("_load_in_4bit")):
        return StoredWeights("bitsandbytes int8, a scale a row", 8, None)
    double = bool(settings.get("bnb_4bit_use_double_quant"))
    kind = settings.get("bnb_4bit_quant_type", "fp4")
    return _grouped(f"bitsandbytes {kind}", 4, 64, 8 + 32 / 256 if double else 32)


def _hqq(method: str, settings: Mapping[str, Any]) -> StoredWeights:
    params = settings["quant_config"]["weight_quant_params"]
    bits, group = int(params.get("nbits", 4)), int(params.get("group_size", 64))
    return _grouped("HQQ", bits, group, 32, offsets=True, kept=params.get("axis", 1) == 1)


def _torchao(method: str, settings: Mapping[str, Any]) -> StoredWeights:
    """Its 8-bit types are what is read."""
    return StoredWeights("torchao, 8 bits", 8, None)


_READERS = {
    "auto-round": _integers,
    "awq": _integers,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "fbgemm_fp8": _fp8,
    "fp8": _fp8,
    "gptq": _integers,
    "hqq": _hqq,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "torchao": _torchao,
}
