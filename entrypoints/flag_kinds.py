"""What flags of several commands have in common, for the dataclasses whose fields are flags."""

from __future__ import annotations

from cyclopts import Parameter

FLAT = Parameter(name="*")
"""The fields of a dataclass are flags of the command itself."""
SWITCH = Parameter(negative=())
"""On or absent: there is no ``--no-``."""
