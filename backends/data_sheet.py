"""What products of a device can do, for ``engine plan``: memory, bandwidth, arithmetic, links. No torch.

``backends/NAME/data_sheets.py`` has the rows of its device in ``SHEETS``, and in ``UNLISTED`` what is assumed of a
product that is not among them; what can be measured is measured then. Rates are what the best matrix product reaches.
Where that was not measured it is taken as ``PRODUCT_SHARE`` of the maker's dense peak, which is what was measured on an
H200: 788 TFLOP/s in bf16 of 989.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from engine.devices import DEVICES

PRODUCT_SHARE = 0.8
GB = 1e9
NARROW = ("bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class DataSheet:
    """One product of a device."""

    name: str
    kind: str
    """The name of its device: what ``--device`` of the other commands takes."""
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
    """How these numbers are known: measured, or by which data sheet and assumptions."""
    spellings: tuple[str, ...] = ()
    """How drivers write the name, in small letters, where ``name`` is not a word of it."""
    keeps_narrow_weights: bool = False
    """Whether matrices stay as narrow as the file has them (``Capabilities.keeps_narrow_weights``)."""
    keeps_groups: Mapping[int, Collection[str | None]] = field(default_factory=dict)
    """As in ``Capabilities``."""
    wider_parts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """As in ``Capabilities``."""

    @property
    def default_dtype(self) -> str:
        return next((dtype for dtype in NARROW if dtype in self.rates), "float32")


@cache
def data_sheets() -> dict[str, DataSheet]:
    """All products of all devices, by name."""
    return {sheet.name: sheet for row in DEVICES for sheet in _of(row.name).SHEETS}


def unlisted(kind: str) -> DataSheet:
    """The assumptions about a product of this device without a data sheet; its rates are to be measured."""
    sheet: DataSheet = _of(kind).UNLISTED
    return sheet


def recognise(kind: str, driver_name: str) -> DataSheet | None:
    """The product that a driver names, like ``NVIDIA H100 80GB HBM3`` or ``Ascend910B3``; the longest match counts."""
    lowered = driver_name.lower()
    words = lowered.replace(",", " ").split()
    found = [
        sheet
        for sheet in data_sheets().values()
        if sheet.kind == kind and (sheet.name in words or any(spelling in lowered for spelling in sheet.spellings))
    ]
    return max(found, key=lambda sheet: len(sheet.name), default=None)


def _of(kind: str) -> Any:
    return importlib.import_module(f"engine.backends.{kind}.data_sheets")
