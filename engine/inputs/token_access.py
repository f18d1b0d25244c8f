"""The tokenizer of a model, as callers may ask it: tokens of texts, and texts of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tokenizers import Tokenizer

from engine.inputs.checks import TokenIds, check_text, checked_ids
from engine.inputs.spans import TextToken, text_tokens
from engine.inputs.windows import WINDOW, encoded, never, windows


class TokenAccess:
    """Texts to tokens and back, with no prompt and no cut. Any number of threads may use one."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size

    def text_tokens(self, text: str, *, add_special_tokens: bool = True) -> list[TextToken]:
        """The tokens of a text, each with its characters. Raises ``InvalidRequestError``."""
        check_text(text, ("inputs",))
        return text_tokens(self._tokenizer, text, add_special_tokens=add_special_tokens)

    def token_windows(
        self, text: str, *, add_special_tokens: bool = True, stop: Callable[[], bool] = never
    ) -> Iterator[list[TextToken]]:
        """The same tokens a window of the text at a time, in bounded memory.

        Raises ``InvalidRequestError``, and ``EncodingAbortedError`` once ``stop`` says so.
        """
        if len(text) <= WINDOW:
            yield self.text_tokens(text, add_special_tokens=add_special_tokens)
            return
        check_text(text, ("inputs",))
        before, after = self._around(add_special_tokens)
        yield before
        for window in windows(self._tokenizer, text, stop):
            yield [
                TextToken(token_id, text[start:end], False, start, end)
                for token_id, (start, end) in zip(window.ids, window.offsets, strict=True)
            ]
        yield after

    def id_windows(
        self, text: str, *, add_special_tokens: bool = True, stop: Callable[[], bool] = never
    ) -> Iterator[list[int]]:
        """Their ids alone, for which next to nothing is done beside tokenising. Raises what ``token_windows`` does."""
        if len(text) <= WINDOW:
            yield self.tokenize(text, add_special_tokens=add_special_tokens)
            return
        check_text(text, ("prompt",))
        before, after = self._around(add_special_tokens)
        yield [token.id for token in before]
        for window in windows(self._tokenizer, text, stop):
            yield window.ids
        yield [token.id for token in after]

    def _around(self, add_special_tokens: bool) -> tuple[list[TextToken], list[TextToken]]:
        """The special tokens that are put before a text, and those behind it."""
        tokens = self.text_tokens("a", add_special_tokens=add_special_tokens)
        inner = [i for i, token in enumerate(tokens) if not token.special]
        return tokens[: inner[0]], tokens[inner[-1] + 1 :]

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises ``InvalidRequestError``."""
        check_text(text, ("prompt",))
        return encoded(self._tokenizer, text, special=add_special_tokens).ids

    def detokenize(self, ids: TokenIds, *, skip_special_tokens: bool = False) -> str:
        """The text of token ids. Raises ``InvalidRequestError`` for ids that the vocabulary lacks."""
        checked = checked_ids(ids, ("tokens",), self._vocab_size)
        return str(self._tokenizer.decode(checked.tolist(), skip_special_tokens=skip_special_tokens))

    def token_strings(self, ids: TokenIds) -> list[str]:
        """Each token as the vocabulary spells it. Raises ``InvalidRequestError`` for ids that it lacks."""
        return [self._tokenizer.id_to_token(i) or "" for i in checked_ids(ids, ("tokens",), self._vocab_size).tolist()]
