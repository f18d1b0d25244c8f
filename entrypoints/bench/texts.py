"""Texts of a wanted length, made from the tokens of a tokenizer or, without one, from invented words."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from engine.checkpoint.hub import PACKAGED_MODEL
from engine.entrypoints.bench.options import DataOptions
from engine.errors import ConfigError

SYLLABLES = [c + v for c in "bdfghjklmnprstvz" for v in "aeiou"]


class TextMaker(Protocol):
    """Makes a text of so many tokens."""

    num_special: int

    def make(self, start: int, length: int) -> str: ...

    def count(self, text: str) -> int: ...

    @property
    def vocab_size(self) -> int: ...


class TokenTexts:
    """Texts of consecutive ordinary tokens, of exactly the wanted length where the tokenizer allows."""

    def __init__(self, tokenizer_file: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        self._ids = [i for i in range(self._tokenizer.get_vocab_size()) if i not in special]
        self.num_special = len(self._tokenizer.encode("").ids)

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def make(self, start: int, length: int) -> str:
        # Neighbouring tokens may merge when their text is read again, so a few more are needed than are wanted.
        num_taken, again = length, list[int]()
        while len(again) < length and num_taken <= 4 * length:
            ids = [self._ids[(start + k) % len(self._ids)] for k in range(num_taken)]
            again = self._tokenizer.encode(self._tokenizer.decode(ids), add_special_tokens=False).ids
            num_taken += max(1, length - len(again))
        return str(self._tokenizer.decode(again[:length]))

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


class WordTexts:
    """Texts of invented words, for servers whose tokenizer is not at hand; a word counts as one token."""

    num_special = 0
    vocab_size = len(SYLLABLES) ** 2

    def make(self, start: int, length: int) -> str:
        return " ".join(self._word((start + k) % self.vocab_size) for k in range(length))

    def count(self, text: str) -> int:
        return len(text.split())

    def _word(self, number: int) -> str:
        first, second = divmod(number, len(SYLLABLES))
        return SYLLABLES[first] + SYLLABLES[second]


def text_maker(options: DataOptions, model_root: str | None) -> TextMaker:
    """``--tokenizer``, else the tokenizer of the model; ``model_root`` is its folder or hub id.

    Raises ``ConfigError`` where there is neither.
    """
    if options.skip_tokenizer_init:
        return WordTexts()
    name = options.tokenizer or model_root
    if not name:
        raise ConfigError(
            "Lengths are measured in tokens, and no tokenizer is known: give --tokenizer FOLDER, "
            "or --skip-tokenizer-init to count plain words instead."
        )
    return TokenTexts(_tokenizer_file(name, fetch=options.tokenizer is not None))


def _tokenizer_file(name: str, fetch: bool) -> Path:
    """A folder's, or a hub id's; the network is asked only about a name that the user gave, not one of the server's."""
    folder = PACKAGED_MODEL if name == PACKAGED_MODEL.name else Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "tokenizer.json").is_file():
            raise ConfigError(f"{folder} holds no tokenizer.json: give --tokenizer a folder that does.")
        return folder / "tokenizer.json"
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, "tokenizer.json", local_files_only=not fetch))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        where = "on the hub" if fetch else "in the hub's local cache"
        raise ConfigError(
            f"No tokenizer for {name!r}: it is no folder here, and not {where} ({type(error).__name__}). "
            "Give --tokenizer FOLDER, or --skip-tokenizer-init to count plain words."
        ) from None
