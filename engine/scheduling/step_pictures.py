"""The pictures of a step: which of its rows are features of which picture, and where tokens stand in time and space.

In a call's token ids, ``FIRST_PICTURE_ID`` and larger ones are rows of its pictures; the tree takes them for words like
any other. Here they become rows and numbers that a worker can use. T tokens of the step, n rows of pictures in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.scheduling.token_tree import Entry, LeafRun
from engine.step import FIRST_PICTURE_ID, StepPicture

if TYPE_CHECKING:
    from engine.scheduling.call import Call


class StepPictures(NamedTuple):
    """The part of ``SchedulerOutput`` about pictures."""

    token_ids: np.ndarray
    """(T,) int32, with 0 in the place of rows of pictures."""
    position_shifts: np.ndarray
    """(T, 3) int32."""
    pictures: list[StepPicture]
    rows: np.ndarray
    """(n, 3) int32."""


def pictures_of(entries: Sequence[Entry], calls: Sequence[Call | None], token_ids: np.ndarray) -> StepPictures | None:
    """The pictures of a step, or None; ``token_ids`` (T,): of all entries, one after the other."""
    if not any(call is not None and call.request.pictures for call in calls):
        return None
    shifts = np.zeros((len(token_ids), 3), np.int32)
    numbers: dict[str, int] = {}
    pictures: list[StepPicture] = []
    found = [np.zeros((0, 3), np.int64)]
    first = 0
    for entry, call in zip(entries, calls, strict=True):
        last = first + (entry.num_tokens if isinstance(entry, LeafRun) else len(entry))
        if call is not None and call.request.position_shifts is not None:
            shifts[first:last] = _own(entry, call.request.position_shifts)
            found.append(_rows(call, token_ids[first:last], first, numbers, pictures))
        first = last
    rows = np.concatenate(found).astype(np.int32)
    token_ids = token_ids.copy()
    token_ids[rows[:, 0]] = 0
    return StepPictures(token_ids, shifts, pictures, rows)


def _own(entry: Entry, of: np.ndarray) -> np.ndarray:
    """What an array over the tokens of a call holds for an entry."""
    if isinstance(entry, LeafRun):
        return entry.tokens(of)
    assert entry.origin is not None
    return of[entry.origin : entry.origin + len(entry)]


def _rows(
    call: Call, token_ids: np.ndarray, first: int, numbers: dict[str, int], pictures: list[StepPicture]
) -> np.ndarray:
    """(m, 3) of an entry whose tokens begin at row ``first`` of the step; its pictures join those of the step."""
    places = (token_ids >= FIRST_PICTURE_ID).nonzero()[0]
    assert call.request.picture_lens is not None
    lens = call.request.picture_lens.astype(np.int64)
    ends = lens.cumsum()
    of_call = token_ids[places] - FIRST_PICTURE_ID
    which = ends.searchsorted(of_call, side="right")
    own_numbers = np.zeros(len(lens), np.int64)
    for picture in np.unique(which).tolist():
        key = f"{call.call_id}/{picture}"
        if key not in numbers:
            numbers[key] = len(pictures)
            pictures.append(StepPicture(key, call.request.pictures[picture]))
        own_numbers[picture] = numbers[key]
    return np.stack([first + places, own_numbers[which], of_call - (ends - lens)[which]], axis=1)
