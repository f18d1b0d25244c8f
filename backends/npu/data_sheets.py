"""Ascend NPUs by what is published of them, for ``engine plan``."""

from __future__ import annotations

from engine.backends.data_sheet import GB, PRODUCT_SHARE, DataSheet

TOKEN_BUDGET = 8192
TOKEN_BUDGET_310P = 2048
"""Its attention mask is quadratic in the length."""
KEEPS_GROUPS = {4: ("int4",)}
"""``Capabilities.keeps_groups`` of the backend, 310P apart."""
_USABLE_MEMORY = 0.9
_STEP_SHARE = 0.5


def _npu(
    name: str, memory: float, terabytes: float, fp16: float, link: float, *spellings: str, inference: bool = False
) -> DataSheet:
    rates = {"float16": fp16 * 1e12} if inference else {"bfloat16": fp16 * 1e12, "w8a8": 2 * fp16 * 1e12}
    if not inference:
        rates["int4"] = fp16 * 1e12  # the cube multiplies in 16 bits: its best case
    return DataSheet(
        name=name,
        kind="npu",
        memory_bytes=memory * GB,
        bandwidth=terabytes * 1e12,
        rates={kind: PRODUCT_SHARE * rate for kind, rate in rates.items()},
        link=link * GB,
        token_budget=TOKEN_BUDGET_310P if inference else TOKEN_BUDGET,
        usable_memory=_USABLE_MEMORY,
        step_share=_STEP_SHARE,
        keeps_groups={} if inference else KEEPS_GROUPS,
        source="published figures disagree (910B: 256 to 376 TFLOP/s in fp16); 50 % of 80 % is assumed",
        spellings=spellings,
    )


SHEETS = (
    _npu("910b", 64, 1.6, 313, 28, "ascend910b"),
    _npu("910c", 64, 1.6, 376, 196, "ascend910_93"),
    _npu("310p", 24, 0.2, 70, 32, "ascend310p", inference=True),
)
UNLISTED = DataSheet(
    name="another Ascend NPU",
    kind="npu",
    memory_bytes=0,
    bandwidth=0,
    rates={},
    link=28 * GB,
    token_budget=TOKEN_BUDGET,
    usable_memory=_USABLE_MEMORY,
    step_share=_STEP_SHARE,
    source="50 % of them for a step and links of a 910B are assumed",
)
