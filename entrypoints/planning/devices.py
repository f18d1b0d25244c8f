"""What devices can do: memory, bandwidth, arithmetic, links. One line a device; ``source`` says how it is known.

Rates are what the best matrix product reaches. Where that was not measured it is taken as ``PRODUCT_SHARE`` of the data
sheet's dense peak, which is what was measured on an H200: 788 TFLOP/s in bf16 of 989.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.errors import ConfigError

PRODUCT_SHARE = 0.8
GB = 1e9
NARROW = ("bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class DeviceFacts:
    name: str
    kind: Literal["cpu", "cuda", "npu"]
    """What ``--device`` of the other commands calls it."""
    memory_bytes: float
    bandwidth: float
    """Bytes a second that memory gives."""
    rates: Mapping[str, float]
    """Floating (or integer) operations a second of the best product, by dtype or quantisation."""
    link: float
    """Bytes a second from one device to another in the same machine, one direction."""
    token_budget: int
    usable_memory: float
    """Share that weights, keys and values and a step may take."""
    step_share: float
    """Share of ``rates`` that a whole step reaches."""
    source: str

    @property
    def default_dtype(self) -> str:
        return next((dtype for dtype in NARROW if dtype in self.rates), "float32")


def _gpu(name: str, memory: float, terabytes: float, bf16: float, fp8: float | None, link: float) -> DeviceFacts:
    rates = {"bfloat16": bf16 * 1e12, "float16": bf16 * 1e12} | ({"fp8": fp8 * 1e12} if fp8 else {})
    return DeviceFacts(
        name=name,
        kind="cuda",
        memory_bytes=memory * GB,
        bandwidth=terabytes * 1e12,
        rates={kind: PRODUCT_SHARE * rate for kind, rate in rates.items()},
        link=link * GB,
        token_budget=16_384,
        usable_memory=0.95,
        step_share=0.6,
        source="data sheet, products at 80 % of it; 60 % of that for a step is assumed",
    )


def _npu(name: str, memory: float, terabytes: float, fp16: float, link: float, *, inference: bool) -> DeviceFacts:
    rates = {"float16": fp16 * 1e12} if inference else {"bfloat16": fp16 * 1e12, "w8a8": 2 * fp16 * 1e12}
    return DeviceFacts(
        name=name,
        kind="npu",
        memory_bytes=memory * GB,
        bandwidth=terabytes * 1e12,
        rates={kind: PRODUCT_SHARE * rate for kind, rate in rates.items()},
        link=link * GB,
        token_budget=2048 if inference else 8192,
        usable_memory=0.9,
        step_share=0.5,
        source="published figures disagree (910B: 256 to 376 TFLOP/s in fp16); 50 % of 80 % is assumed",
    )


H200 = DeviceFacts(
    name="h200",
    kind="cuda",
    memory_bytes=141 * GB,
    bandwidth=4.3e12,
    rates={"bfloat16": 788e12, "float16": 788e12, "fp8": 1300e12},
    link=450 * GB,
    token_budget=16_384,
    usable_memory=0.95,
    step_share=0.6,
    source="products and bandwidth measured in bf16, fp8 not; 60 % of them for a step is assumed",
)

DEVICES: dict[str, DeviceFacts] = {
    device.name: device
    for device in (
        _gpu("b200", 180, 8.0, 2250, 4500, 900),
        H200,
        _gpu("h100", 80, 3.35, 989, 1979, 450),
        _gpu("h100-pcie", 80, 2.0, 756, 1513, 64),
        _gpu("a100", 80, 2.0, 312, None, 300),
        _gpu("a100-40gb", 40, 1.55, 312, None, 300),
        _gpu("l40s", 48, 0.864, 362, 733, 32),
        _gpu("l4", 24, 0.3, 121, 242, 32),
        _gpu("a10", 24, 0.6, 125, None, 32),
        _gpu("rtx-4090", 24, 1.008, 165, 330, 32),
        _gpu("rtx-3090", 24, 0.936, 71, None, 32),
        _npu("910b", 64, 1.6, 313, 28, inference=False),
        _npu("910c", 64, 1.6, 376, 196, inference=False),
        _npu("310p", 24, 0.2, 70, 32, inference=True),
    )
}

_SPELLINGS = {
    "910b": ("ascend910b",),
    "910c": ("ascend910_93",),
    "310p": ("ascend310p",),
    "rtx-4090": ("rtx 4090",),
    "rtx-3090": ("rtx 3090",),
    "h100-pcie": ("h100 pcie",),
    "a100-40gb": ("a100-sxm4-40gb", "a100-pcie-40gb"),
}
"""How drivers write the names that are not part of theirs as they stand."""


def find_device(name: str) -> DeviceFacts:
    if name in DEVICES:
        return DEVICES[name]
    raise ConfigError(
        f"--device {name} is not in the table: auto, cpu, cuda or npu for this machine, or {', '.join(DEVICES)}.",
        param="device",
    )


def recognise(driver_name: str) -> DeviceFacts | None:
    """The device that a driver names, like ``NVIDIA H100 80GB HBM3`` or ``Ascend910B3``; the longest match counts."""
    lowered = driver_name.lower()
    words = lowered.replace(",", " ").split()
    found = [
        name for name in DEVICES if name in words or any(spelling in lowered for spelling in _SPELLINGS.get(name, ()))
    ]
    return DEVICES[max(found, key=len)] if found else None
