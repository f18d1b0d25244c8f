"""The tokenizer of a model, as callers may ask it: tokens of texts, and texts of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tokenizers import Tokenizer

from engine.inputs.checks import TokenIds, check_text, checked_ids
from engine.inputs.spans import TextToken, text_tokens
from engine.inputs.windows import WINDOW, never, windows


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
        around = self.text_tokens("a", add_special_tokens=add_special_tokens)
        inner = [i for i, token in enumerate(around) if not token.special]
        yield around[: inner[0]]
        for window in windows(self._tokenizer, text, stop):
            yield [
                TextToken(token_id, token_text, False, *place)
                for token_id, place in zip(window.ids, window.offsets, strict=True)
                for token_text in (text[place[0] : place[1]],)
            ]
        yield around[inner[-1] + 1 :]

    def tokenize(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text. Raises ``InvalidRequestError``."""
        check_text(text, ("prompt",))
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def detokenize(self, ids: TokenIds, *, skip_special_tokens: bool = False) -> str:
        """The text of token ids. Raises ``InvalidRequestError`` for ids that the vocabulary lacks."""
        checked = checked_ids(ids, ("tokens",), self._vocab_size)
        return str(self._tokenizer.decode(checked.tolist(), skip_special_tokens=skip_special_tokens))

    def token_strings(self, ids: TokenIds) -> list[str]:
        """Each token as the vocabulary spells it. Raises ``InvalidRequestError`` for ids that it lacks."""
        return [self._tokenizer.id_to_token(i) or "" for i in checked_ids(ids, ("tokens",), self._vocab_size).tolist()]
