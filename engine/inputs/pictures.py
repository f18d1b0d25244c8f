"""Pictures in prompts: marks in their place while a pair is tokenised and cut, and where they stand in the end.

While a pair is encoded, all rows of its picture number k have the id ``FIRST_PICTURE_ID + k``, which no text has. They
count as the template's own tokens, so they are never cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.errors import PARAM, InvalidRequestError
from engine.inputs.pair_encoder import Pair
from engine.model_spec import VisionSpec
from engine.prompts.compiled import CompiledPrompt, with_constants
from engine.prompts.template import Placeholder
from engine.request import Encoded, EncodedPair, PairPictures, Picture
from engine.step import FIRST_PICTURE_ID


@dataclass(frozen=True, slots=True)
class Shown:
    """The pictures of some pairs, for a model that reads them."""

    vision: VisionSpec
    pictures: Sequence[PairPictures | None]
    """Of each pair; None: it has none."""


def prompt_with(prompt: CompiledPrompt, pictures: PairPictures, vision: VisionSpec) -> CompiledPrompt:
    """The prompt of a pair with these pictures."""
    marks, number = {}, 0
    for placeholder, side in zip((Placeholder.QUERY, Placeholder.DOCUMENT), pictures, strict=True):
        ids: list[int] = []
        for picture in side:
            rows = [FIRST_PICTURE_ID + number] * picture.num_rows
            ids += [*vision.before, *rows, *vision.behind]
            number += 1
        marks[placeholder] = np.array(ids, np.int32)
    return with_constants(prompt, marks)


def with_pictures(pair: Pair, pictures: PairPictures, vision: VisionSpec) -> Pair:
    """A pair that shows pictures too. Raises ``InvalidRequestError``, about no field, where they are too many."""
    assert pair.prompt is not None
    count = sum(map(len, pictures))
    if count > vision.max_images:
        most = f"at most {vision.max_images} are read with one document, those of its query included"
        raise InvalidRequestError(f"{PARAM}: the pair has {count} pictures, and {most} (--max-images-per-pair).")
    return replace(pair, prompt=prompt_with(pair.prompt, pictures, vision), pictures=pictures)


def placed(pair: Encoded, found: Pair, vision: VisionSpec) -> Encoded:
    """The encoded pair with the model's own id in the place of the marks, and where each picture begins."""
    if found.pictures is None or not isinstance(pair, EncodedPair):
        return pair
    ids = pair.token_ids
    marks = ids >= FIRST_PICTURE_ID
    both: list[Picture] = [picture for side in found.pictures for picture in side]
    starts = [int((ids == FIRST_PICTURE_ID + number).argmax()) for number in range(len(both))]
    token_ids = np.where(marks, vision.image_id, ids).astype(np.int32)
    shown = sorted(zip(starts, both, strict=True), key=lambda place: place[0])  # of some prompts documents come first
    return replace(pair, token_ids=token_ids, pictures=tuple(shown))
