"""The pictures of a call: read before its texts are tokenised, and put into the one message to the core.

P pairs, n tokens of all of them, A axes (time, height, width).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.errors import PARAM, FieldPath, InvalidRequestError, RequestError
from engine.request import EncodedPair, ImageSource, PairPictures, Picture
from engine.step import FIRST_PICTURE_ID

LoadedPictures = Mapping[str, Picture | RequestError]
"""What became of each picture of a call, by ``ImageSource.data``; the errors are about no field yet."""


def pictures_of_side(sources: Sequence[ImageSource], loaded: LoadedPictures, where: FieldPath) -> tuple[Picture, ...]:
    """The pictures of a query or a document. Raises the ``RequestError`` of the first that cannot be read."""
    found = []
    for source in sources:
        picture, path = loaded.get(source.data), (*where, *source.inside)
        if picture is None:
            raise InvalidRequestError(f"{PARAM}: the call's time was over before the picture was read.", param=path)
        if isinstance(picture, RequestError):
            raise picture.at(path)
        found.append(picture)
    return tuple(found)


def pair_pictures(query: tuple[Picture, ...], document: tuple[Picture, ...]) -> PairPictures | None:
    """The pictures of a pair; None for a pair of texts."""
    return (query, document) if query or document else None


def picture_fields(pairs: Sequence[EncodedPair], token_ids: np.ndarray) -> dict[str, Any]:
    """The fields of ``EngineCoreRequest`` that say what the pairs show; none where they are of texts.

    Pictures with equal pixels are one, and their rows have ids of their own: pairs share what they show as they share
    what they say.
    """
    if not any(pair.pictures for pair in pairs):
        return {}
    distinct = {picture.digest: picture for pair in pairs for _, picture in pair.pictures}
    lens = np.array([picture.num_rows for picture in distinct.values()], np.int32)
    firsts = dict(zip(distinct, (lens.cumsum() - lens).tolist(), strict=True))
    token_ids, shifts = token_ids.astype(np.int32), np.zeros((len(token_ids), 3), np.int32)
    begin = 0
    for pair in pairs:
        end = begin + len(pair.token_ids)
        for start, picture in pair.pictures:
            ids = FIRST_PICTURE_ID + firsts[picture.digest] + np.arange(picture.num_rows)
            token_ids[begin + start : begin + start + picture.num_rows] = ids
        shifts[begin:end] = position_shifts(len(pair.token_ids), pair.pictures)
        begin = end
    return {
        "token_ids": token_ids,
        "pictures": [picture.pixels for picture in distinct.values()],
        "picture_lens": lens,
        "position_shifts": shifts,
    }


def position_shifts(length: int, pictures: Sequence[tuple[int, Picture]]) -> np.ndarray:
    """(length, A) int32: from a token's place in the prompt to its position on each axis, as transformers'
    ``get_rope_index`` has them. A picture's rows stand at one time, side by side; what follows it counts on from its
    longer side."""
    shifts, behind = np.zeros((length, 3), np.int32), 0
    for start, picture in pictures:
        end = start + picture.num_rows
        own = np.arange(picture.num_rows)
        places = np.stack([np.zeros_like(own), own // picture.num_across, own % picture.num_across], axis=1)
        shifts[start:end] = behind + places - own[:, None]
        behind += max(picture.num_down, picture.num_across) - picture.num_rows
        shifts[end:] = behind
    return shifts
