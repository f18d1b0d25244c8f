"""A machine's own processor, for ``engine plan``: there is no table of processors, all that can be is measured."""

from __future__ import annotations

from engine.backends.data_sheet import DataSheet

_STEP_SHARE = 0.85
"""84 to 90 % of a step's time is in its products, and they are what is measured."""

SHEETS: tuple[DataSheet, ...] = ()
UNLISTED = DataSheet(
    name="cpu",
    kind="cpu",
    memory_bytes=0,
    bandwidth=0,
    rates={},
    link=0,
    token_budget=1024,
    usable_memory=0.9,
    step_share=_STEP_SHARE,
    source=f"{_STEP_SHARE:.0%} of them for a step",
)
