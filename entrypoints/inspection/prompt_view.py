"""A prompt as a person can read it: the template's special tokens marked, and what was cut shown in its place.

Ids decide what is special, not the text: a document that spells ``<|im_end|>`` is ordinary text and looks like it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from engine.checkpoint.files import load_tokenizer
from engine.checkpoint.template import load_template
from engine.model_spec import ModelSpec
from engine.prompts.template import Placeholder
from engine.ranges import common_prefix

PieceKind = Literal["text", "special", "cut"]
_LOOKS_SPECIAL = re.compile(r"<.*>|\[.*\]")


@dataclass(frozen=True)
class Piece:
    kind: PieceKind
    text: str
    num_tokens: int


class PromptView:
    """Token ids of one model, made readable."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._tokenizer = load_tokenizer(Path(spec.tokenizer_path))
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {i: t.content for i, t in added.items() if t.special or _LOOKS_SPECIAL.fullmatch(t.content)}

    def pieces(self, ids: np.ndarray, uncut: np.ndarray) -> list[Piece]:
        """The prompt ``ids``, which is ``uncut`` without some runs of tokens; those are shown where they stood."""
        found: list[Piece] = []
        last = 0
        for start, stop in cut_runs(uncut, ids):
            found += self._readable(uncut[last:start])
            found.append(Piece("cut", self._decode(uncut[start:stop]), stop - start))
            last = stop
        return [*found, *self._readable(uncut[last:])]

    def tokens(self, ids: np.ndarray) -> list[str]:
        """Each token by itself; one that holds part of a character only is shown as the vocabulary spells it."""
        texts = [(i, self._special.get(i) or self._decode(np.array([i]))) for i in ids.tolist()]
        return [self._tokenizer.id_to_token(i) or "" if "\ufffd" in text else text for i, text in texts]

    def _readable(self, ids: np.ndarray) -> Iterator[Piece]:
        for is_special, run in groupby(ids.tolist(), key=self._special.__contains__):
            members = list(run)
            if is_special:
                yield from (Piece("special", self._special[i], 1) for i in members)
            else:
                yield Piece("text", self._decode(np.array(members)), len(members))

    def _decode(self, ids: np.ndarray) -> str:
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def plain_text(self, instruction: str, query: str, document: str) -> str | None:
        """The template filled in, by plain replacement; None for models that take the tokenizer's own pair form."""
        spec = self._spec
        if not (spec.causal or spec.takes_prompt) or (spec.template is None and spec.use_sep_token):
            return None
        values = {Placeholder.INSTRUCTION: instruction, Placeholder.QUERY: query, Placeholder.DOCUMENT: document}
        pieces = [piece for part in load_template(self._spec.template).parts for piece in part]
        return "".join(values[piece] if isinstance(piece, Placeholder) else piece for piece in pieces)


def cut_runs(uncut: np.ndarray, kept: np.ndarray) -> list[tuple[int, int]]:
    """The at most two runs (start, stop) of ``uncut`` that are not in ``kept``: of the query and of the document."""
    num_cut = len(uncut) - len(kept)
    if num_cut <= 0:
        return []
    first = common_prefix(uncut, kept)
    num_last = min(common_prefix(uncut[::-1], kept[::-1]), len(kept))
    if first + num_last >= len(kept):
        return [(first, first + num_cut)]
    middle = kept[first : len(kept) - num_last]
    for start in range(first + 1, first + num_cut):
        if np.array_equal(uncut[start : start + len(middle)], middle):
            return [(first, start), (start + len(middle), len(uncut) - num_last)]
    return [(first, len(uncut) - num_last)]
