"""Prompts that the sender built whole: as token ids, as the model's own prompt with both texts in it, or as a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenizers import Tokenizer

from engine.errors import PARAM, FieldPath, InvalidRequestError, RequestError
from engine.inputs.checks import TokenIds, check_query, checked_ids, longer_than
from engine.inputs.cross_encoder import CrossEncoderPairs
from engine.inputs.model_prompts import ModelPrompts
from engine.inputs.pair_encoder import TokenizerPairs
from engine.inputs.part_limits import CallParts
from engine.inputs.windows import shortened
from engine.request import Encoded, EncodedPair, PairOptions


class WholePrompts:
    """Encodes prompts as they are; the texts inside the model's own prompt are cut like those of a pair."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocab_size: int,
        prompts: ModelPrompts,
        pairs: CrossEncoderPairs,
        texts: TokenizerPairs,
    ) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._prompts = prompts
        self._pairs = pairs
        self._texts = texts

    def encode(self, prompts: Sequence[str | TokenIds], limit: int, options: PairOptions) -> list[Encoded]:
        """The prompts in order, of at most ``limit`` tokens each, or why one cannot be read."""
        found: list[Encoded] = []
        for i, prompt in enumerate(prompts):
            try:
                found.append(self._encode_one(prompt, ("prompts", i), limit, options))
            except InvalidRequestError as error:
                found.append(error)
        return found

    def _encode_one(self, prompt: str | TokenIds, where: FieldPath, limit: int, options: PairOptions) -> Encoded:
        if not isinstance(prompt, str):
            return self._ids(prompt, where, limit)
        check_query(prompt, where)
        if self._prompts.is_formatted(prompt):
            return self._own_prompt(prompt, where, limit, options)
        return self._text(prompt, where, limit, options)

    def _ids(self, prompt: TokenIds, where: FieldPath, limit: int) -> EncodedPair:
        ids = checked_ids(prompt, where, self._vocab_size)
        if not 1 <= len(ids) <= limit:
            raise InvalidRequestError(f"{PARAM} has {len(ids)} token ids; 1 to {limit} are possible.", param=where)
        return EncodedPair(ids)

    def _own_prompt(self, prompt: str, where: FieldPath, limit: int, options: PairOptions) -> Encoded:
        parts = CallParts({0: self._prompts.unwrap_whole(prompt, where)}, {}, 1)
        parts.shorten(self._tokenizer, limit, options)
        one = parts.refused.get(0) or self._pairs.encode(parts.pairs, limit, options)[0]
        one = parts.with_cuts(one, 0, limit, options)
        return one.at(where) if isinstance(one, RequestError) else one

    def _text(self, prompt: str, where: FieldPath, limit: int, options: PairOptions) -> Encoded:
        text = shortened(self._tokenizer, prompt, limit, options.truncation_side)
        encoded = self._texts.encode_single(text.text, limit, options.truncate, options.truncation_side, where)
        if not text.is_whole and not options.truncate:
            return longer_than(limit, where)
        if text.is_cut and isinstance(encoded, EncodedPair):
            return replace(encoded, truncated_document=True)
        return encoded
