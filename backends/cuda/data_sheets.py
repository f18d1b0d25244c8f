"""NVIDIA GPUs by their data sheets, for ``engine plan``."""

from __future__ import annotations

from engine.backends.data_sheet import GB, PRODUCT_SHARE, DataSheet

TOKEN_BUDGET = 16_384
"""Of the largest step that is tried, and of one that nothing was measured for."""
_USABLE_MEMORY = 0.95
_STEP_SHARE = 0.6
KEEPS_GROUPS = {4: (None, "int4")}
"""``Capabilities.keeps_groups`` of the backend."""


def _gpu(
    name: str, memory: float, terabytes: float, bf16: float, fp8: float | None, link: float, *spellings: str
) -> DataSheet:
    rates = {"bfloat16": bf16, "float16": bf16} | ({"fp8": fp8} if fp8 else {}) | {"int4": bf16}
    return DataSheet(
        name=name,
        kind="cuda",
        memory_bytes=memory * GB,
        bandwidth=terabytes * 1e12,
        rates={kind: PRODUCT_SHARE * rate * 1e12 for kind, rate in rates.items()},
        link=link * GB,
        token_budget=TOKEN_BUDGET,
        usable_memory=_USABLE_MEMORY,
        step_share=_STEP_SHARE,
        keeps_groups=KEEPS_GROUPS,
        source="data sheet, products at 80 % of it; 60 % of that for a step is assumed",
        spellings=spellings,
    )


H200 = DataSheet(
    name="h200",
    kind="cuda",
    memory_bytes=141 * GB,
    bandwidth=4.3e12,
    rates={"bfloat16": 788e12, "float16": 788e12, "fp8": 1300e12, "int4": 788e12},
    link=450 * GB,
    token_budget=TOKEN_BUDGET,
    usable_memory=_USABLE_MEMORY,
    step_share=_STEP_SHARE,
    keeps_groups=KEEPS_GROUPS,
    source="products and bandwidth measured in bf16, fp8 not; 60 % of them for a step is assumed",
)

SHEETS = (
    _gpu("b200", 180, 8.0, 2250, 4500, 900),
    H200,
    _gpu("h100", 80, 3.35, 989, 1979, 450),
    _gpu("h100-pcie", 80, 2.0, 756, 1513, 64, "h100 pcie"),
    _gpu("a100", 80, 2.0, 312, None, 300),
    _gpu("a100-40gb", 40, 1.55, 312, None, 300, "a100-sxm4-40gb", "a100-pcie-40gb"),
    _gpu("l40s", 48, 0.864, 362, 733, 32),
    _gpu("l4", 24, 0.3, 121, 242, 32),
    _gpu("a10", 24, 0.6, 125, None, 32),
    _gpu("rtx-4090", 24, 1.008, 165, 330, 32, "rtx 4090"),
    _gpu("rtx-3090", 24, 0.936, 71, None, 32, "rtx 3090"),
)
UNLISTED = DataSheet(
    name="another NVIDIA GPU",
    kind="cuda",
    memory_bytes=0,
    bandwidth=0,
    rates={},
    link=32 * GB,
    token_budget=TOKEN_BUDGET,
    usable_memory=_USABLE_MEMORY,
    step_share=_STEP_SHARE,
    keeps_groups=KEEPS_GROUPS,
    source="60 % of them for a step and links of PCIe 4.0 are assumed",
)
