"""Texts to token ids, many at a time: Hugging Face's tokenizers, or kitoken where it gives the very same ids.

The rest of the engine sees ``TextEncoder`` only. kitoken (extra ``fast``) reads the same tokenizer.json and is three to
four times as fast on byte-level BPE. It is taken where nothing can differ: for that kind of tokenizer alone, after its
ids were those of Hugging Face's on a fixed sample (``encoder_sample.py``), and text by text. A text that holds one of
the tokenizer's added tokens goes to Hugging Face's, and so does its normalisation, whose Unicode version is its own.
Where tokens lie in a text is always asked of Hugging Face's (``spans.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer, models

from engine.extras import pip_install
from engine.inputs.encoder_sample import sample_texts
from engine.prompts.compiled import settings_of

TEXTS_PER_BATCH = 512
"""Bounds the memory of the library's own objects, which are much larger than the ids."""


class TextEncoder(Protocol):
    """Thread-safe."""

    note: str
    """Which one it is and why, for the log."""

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts, (sum of lengths,) int32, and where each text's begin in them, (n + 1,).

        No special token is added, and one that a text spells is ordinary text.
        """
        ...


class HuggingFaceEncoder:
    def __init__(self, tokenizer: Tokenizer, why: str = "") -> None:
        self._tokenizer = tokenizer
        self.note = "texts are tokenised by Hugging Face's tokenizers" + (f": {why}" if why else "")

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See ``TextEncoder``."""
        return joined(self.lists(texts))

    def lists(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text."""
        found: list[list[int]] = []
        for start in range(0, len(texts), TEXTS_PER_BATCH):
            batch = list(texts[start : start + TEXTS_PER_BATCH])
            found += [one.ids for one in self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)]
        return found


class KitokenEncoder:
    """kitoken, with Hugging Face's tokenizer beside it for the texts that are not its own."""

    note = "texts are tokenised by kitoken, whose ids are those of Hugging Face's tokenizers"

    def __init__(self, tokenizer: Tokenizer) -> None:
        from kitoken import Kitoken

        self._kitoken = Kitoken.from_tokenizers(tokenizer.to_str().encode())
        config = self._kitoken.config()
        self._kitoken.set_config({**config, "normalization": []})
        self._normalizer = tokenizer.normalizer
        self._other = HuggingFaceEncoder(tokenizer)
        words = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._added = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or r"(?!)")
        self._first_letters = sorted({word[0] for word in words if word})

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See ``TextEncoder``."""
        lists: list[list[int]] = self._kitoken.encode_all([self._normalised(text) for text in texts], False)
        others = [i for i, text in enumerate(texts) if self._holds_added(text)]
        for i, ids in zip(others, self._other.lists([texts[i] for i in others]), strict=True):
            lists[i] = ids
        return joined(lists)

    def _normalised(self, text: str) -> str:
        if self._normalizer is None or text.isascii():  # nothing of NFC is ASCII
            return text
        normalised: str = self._normalizer.normalize_str(text)
        return normalised

    def _holds_added(self, text: str) -> bool:
        return any(letter in text for letter in self._first_letters) and self._added.search(text) is not None


def joined(lists: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Lists of ids end to end, and where each begins."""
    bounds = np.zeros(len(lists) + 1, np.int64)
    np.cumsum([len(ids) for ids in lists], out=bounds[1:])
    return np.fromiter(chain.from_iterable(lists), np.int32, int(bounds[-1])), bounds


def choose_encoder(tokenizer: Tokenizer) -> TextEncoder:
    """The fastest that gives this tokenizer's ids. ``tokenizer`` treats special tokens in texts as ordinary text."""
    obstacle = _obstacle(tokenizer)
    if obstacle is not None:
        return HuggingFaceEncoder(tokenizer, obstacle)
    try:
        fast = KitokenEncoder(tokenizer)
    except ImportError:
        return HuggingFaceEncoder(tokenizer, f"kitoken, which is faster, is not installed ({pip_install('fast')})")
    except Exception as error:  # the library has no narrower type
        return HuggingFaceEncoder(tokenizer, f"kitoken cannot read this tokenizer ({error})")
    differing = first_difference(fast, HuggingFaceEncoder(tokenizer))
    if differing is not None:
        return HuggingFaceEncoder(tokenizer, f"kitoken gives other ids for {differing!r}")
    return fast


def first_difference(one: TextEncoder, other: TextEncoder) -> str | None:
    """The first text of the sample for which two encoders differ."""
    texts = sample_texts()
    (ids, bounds), (other_ids, other_bounds) = one.encode_batch(texts), other.encode_batch(texts)
    for i, text in enumerate(texts):
        if not np.array_equal(ids[bounds[i] : bounds[i + 1]], other_ids[other_bounds[i] : other_bounds[i + 1]]):
            return text
    return None


def keeps_all_bytes(tokenizer: Tokenizer) -> bool:
    """Whether every byte of a text becomes part of a token, so that no text but the empty one has no token."""
    normalizer = settings_of(tokenizer.normalizer).get("type", "NFC")
    return (
        isinstance(tokenizer.model, models.BPE)
        and normalizer == "NFC"
        and _is_byte_level(settings_of(tokenizer.pre_tokenizer))
    )


def _obstacle(tokenizer: Tokenizer) -> str | None:
    """Why kitoken is not even tried; None where it is."""
    model = tokenizer.model
    if not isinstance(model, models.BPE) or model.dropout or not _is_byte_level(settings_of(tokenizer.pre_tokenizer)):
        return "it is no byte-level BPE"
    if settings_of(tokenizer.normalizer).get("type", "NFC") != "NFC":
        return "its normaliser is not NFC"
    return None


def _is_byte_level(pre_tokenizer: dict[str, Any]) -> bool:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    return bool(steps) and steps[-1].get("type") == "ByteLevel"
