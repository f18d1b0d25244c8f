"""Texts that a tokenizer hardly knows: mostly unknown tokens, pieces of characters, or single letters of a script.

A model scores such a text all the same, and its score says little: an English model gives every Thai document nearly
the same one. What is counted is not what the model was trained on, which no file says, but what its tokenizer lost.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from dataclasses import replace

import numpy as np
from tokenizers import Tokenizer

from engine.prompts.compiled import settings_of
from engine.request import EncodedPair

logger = logging.getLogger(__name__)

LOST_SHARE = 0.2
"""Unknown tokens and bytes above this share of a text: every fifth word or letter is not in the vocabulary."""
SPELLED_SHARE = 0.5
"""The same with single letters of other scripts than Latin, and than East Asian ones that the vocabulary knows: most
of the text is spelled out letter by letter."""
_KNOWN, _SPELLED, _LOST = 0, 1, 2
_EAST_ASIAN = re.compile("[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef]")
"""Han, kana, Hangul and their wide and narrow forms: letters that a vocabulary may well hold one by one."""
EAST_ASIAN_SHARE = 0.05
"""Of the tokens of a vocabulary that knows such texts. An English BERT's has 2 %, a multilingual one's 8 % and more."""
_LONGEST = 6
"""Letters of ``<0xE2>``; a longer token is no piece of a character and no single letter."""


class UnfamiliarTokens:
    """The tokens of a vocabulary that stand for text which it does not hold."""

    def __init__(self, tokenizer: Tokenizer, shortest: EncodedPair) -> None:
        """``shortest``: a pair of two letters in the model's prompt, whose other tokens are the template."""
        self._kinds = _kinds(tokenizer)
        self._knows_all = not self._kinds.any()
        self._told = False
        self._query = shortest.query_len - 1
        """Tokens of the template before and behind the query; the document's follow."""
        self._document = len(shortest.token_ids) - shortest.query_len - 1
        self._both = len(shortest.token_ids) - 2

    def marked(self, pair: EncodedPair) -> EncodedPair:
        """The pair, with ``unfamiliar`` where query or document is such a text."""
        if self._knows_all or pair.prompts or pair.pictures:
            return pair
        kinds = self._kinds[pair.token_ids]
        if not np.count_nonzero(kinds):
            return pair
        if pair.query_len:
            sides = [(kinds[: pair.query_len], self._query), (kinds[pair.query_len :], self._document)]
        else:
            sides = [(kinds, self._both)]
        if not any(_is_lost(side, fixed) for side, fixed in sides):
            return pair
        if not self._told:
            self._told = True
            logger.warning(
                "The model's tokenizer hardly knows a text of this call: most of it is unknown tokens, pieces of "
                "characters or single letters, so its score says little. Such results are marked unfamiliar "
                "and counted (engine_unfamiliar_pairs); this line comes once."
            )
        return replace(pair, unfamiliar=True)


def _is_lost(kinds: np.ndarray, num_fixed: int) -> bool:
    """``num_fixed``: tokens of the template among them."""
    num_text = max(1, len(kinds) - max(0, num_fixed))
    num_lost, num_spelled = int((kinds == _LOST).sum()), int((kinds == _SPELLED).sum())
    return num_lost > LOST_SHARE * num_text or num_lost + num_spelled > SPELLED_SHARE * num_text


def _kinds(tokenizer: Tokenizer) -> np.ndarray:
    """(vocabulary,) uint8."""
    model, vocabulary = settings_of(tokenizer.model), tokenizer.get_vocab()
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    is_bytes = "ByteLevel" in str(settings_of(tokenizer.decoder)) or "ByteLevel" in str(
        settings_of(tokenizer.pre_tokenizer)
    )
    kinds = np.zeros(max(vocabulary.values(), default=-1) + 1, np.uint8)
    num_east_asian = 0 if is_bytes else sum(_EAST_ASIAN.search(token) is not None for token in vocabulary)
    reads_east_asian = num_east_asian >= EAST_ASIAN_SHARE * len(vocabulary)
    for token, number in vocabulary.items():
        if len(token) <= _LONGEST and token not in special:
            kinds[number] = _kind_of_bytes(token) if is_bytes else _kind_of_piece(token, reads_east_asian)
    unknown = model.get("unk_token")
    unknown_id = vocabulary.get(unknown) if isinstance(unknown, str) else model.get("unk_id")
    if unknown_id is not None:
        kinds[unknown_id] = _LOST
    return kinds


def _kind_of_piece(token: str, reads_east_asian: bool) -> int:
    if token.startswith("<0x") and len(token) == _LONGEST:
        return _LOST if token[3:5] >= "80" else _KNOWN
    text = token.removeprefix("##").replace("\u2581", "")
    if len(text) != 1 or unicodedata.category(text)[0] not in "LM" or unicodedata.name(text, "").startswith("LATIN"):
        return _KNOWN
    return _KNOWN if reads_east_asian and _EAST_ASIAN.match(text) else _SPELLED


def _kind_of_bytes(token: str) -> int:
    """Byte-level vocabularies hold a character whole, or its bytes one by one."""
    try:
        bytes(_BYTES[letter] for letter in token).decode("utf-8")
    except UnicodeDecodeError:
        return _LOST
    except KeyError:
        return _KNOWN
    return _KNOWN


def _byte_chars() -> dict[str, int]:
    """The letters that stand for bytes, as GPT-2 chose them: itself where it can be printed, else one above 255."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_chars()
