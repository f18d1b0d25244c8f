"""The families, each with checkpoints of several shapes and with what transformers says of a pair.

This is the one list: the parity tests run it, and ``docs/models.md`` is made from it.
"""

from __future__ import annotations

from tests.families.decoders import DECODERS
from tests.families.encoders import ENCODERS, LATER_ENCODERS
from tests.families.family import Family

FAMILIES: dict[str, Family] = ENCODERS | DECODERS | LATER_ENCODERS
