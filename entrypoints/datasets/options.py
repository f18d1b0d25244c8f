"""The options of ``engine score``: each field is a flag, explained by the string below it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from engine.entrypoints.flag_kinds import SWITCH


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """The result of ``engine score``, and the devices that compute it."""

    output: Annotated[Path, Parameter(name=["--output", "-o"])]
    """The result: a .jsonl or .parquet file."""
    window: int = 4096
    """Pairs that are read, sorted by query and written together."""
    raw_scores: Annotated[bool, SWITCH] = False
    """Write logits instead of scores."""
    restart: Annotated[bool, SWITCH] = False
    """Begin anew instead of going on with an interrupted run."""
    ray: Annotated[bool, SWITCH] = False
    """Score with the devices of a Ray cluster: RAY_ADDRESS, or this machine."""
    ray_actors: int | None = None
    """Models that Ray places. Not given: as many as the cluster has devices."""
