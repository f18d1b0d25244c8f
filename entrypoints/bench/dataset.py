"""What is sent: calls of one query and some documents, made at random or read from files.

Queries are distinct unless ``--shared-query-ratio`` says otherwise: one query for a whole run, as other benches have
it, measures the prefix cache more than the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from engine.checkpoint.hub import PACKAGED_MODEL
from engine.entrypoints.bench.options import DataOptions
from engine.errors import ConfigError

SYLLABLES = [c + v for c in "bdfghjklmnprstvz" for v in "aeiou"]


@dataclass(frozen=True, slots=True)
class BenchCall:
    """One call to send."""

    query: str
    documents: list[str]
    num_tokens: int
    """Tokens of the texts by our own count, without template; used where a server does not say."""
    instruction: str | None = None


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
    """``--tokenizer``, else the tokenizer of the model; ``model_root`` is its folder or hub id."""
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


def random_calls(options: DataOptions, num_documents: int, texts: TextMaker) -> Iterator[BenchCall]:
    """The ``random-rerank`` set: lengths and texts depend on the seed alone."""
    rng = np.random.default_rng(options.seed)
    query_len = options.random_input_len if options.no_reranker else options.random_input_len // 2 - 1
    document_len = options.random_input_len if options.no_reranker else options.random_input_len - query_len - 1
    made = 0

    def text(target: int) -> str:
        nonlocal made
        wanted = max(1, target - texts.num_special)
        low, high = _around(wanted, options.random_range_ratio)
        made += 1
        return texts.make(int(rng.integers(0, texts.vocab_size)) + made, int(rng.integers(low, high + 1)))

    shared_query = text(query_len)
    prefix = texts.make(0, options.random_prefix_len) if options.random_prefix_len else ""
    left = num_documents
    while left > 0:
        query = shared_query if rng.random() < options.shared_query_ratio else text(query_len)
        documents = [prefix + text(document_len) for _ in range(min(left, options.random_batch_size))]
        left -= len(documents)
        count = sum(texts.count(document) for document in documents) + texts.count(query) * len(documents)
        yield BenchCall(query, documents, count)


def check_data_options(options: DataOptions, num_documents: int) -> None:
    """Everything that can be wrong without reading or making a text."""
    if num_documents < 1:
        raise ConfigError("--num-prompts must be at least 1.")
    if options.random_batch_size < 1:
        raise ConfigError("--random-batch-size must be at least 1 document a call.")
    if not 0 <= options.shared_query_ratio <= 1:
        raise ConfigError(f"--shared-query-ratio {options.shared_query_ratio} must be in [0, 1].")
    if options.random_input_len < 4:
        raise ConfigError(f"--random-input-len {options.random_input_len} is too short: query and document need 4.")
    if not 0 <= options.random_range_ratio < 1:
        raise ConfigError(f"--random-range-ratio {options.random_range_ratio} must be in [0, 1).")
    if options.dataset_name == "random-rerank" and options.dataset_path is not None:
        raise ConfigError("--dataset-path belongs to --dataset-name jsonl or beir; random-rerank makes its own texts.")
    if options.dataset_name != "random-rerank" and options.dataset_path is None:
        raise ConfigError(f"--dataset-name {options.dataset_name} needs --dataset-path.")


def load_calls(options: DataOptions, num_documents: int, model_root: str | None) -> list[BenchCall]:
    """The calls of a run, in the order of sending; the options were checked."""
    if options.dataset_name == "random-rerank":
        return list(random_calls(options, num_documents, text_maker(options, model_root)))
    from engine.entrypoints.bench import dataset_files

    texts = WordTexts() if options.tokenizer is None else text_maker(options, model_root)
    read = dataset_files.READERS[options.dataset_name]
    return list(_first_documents(read(Path(str(options.dataset_path)), options, texts), num_documents))


def _first_documents(calls: Iterator[BenchCall], num_documents: int) -> Iterator[BenchCall]:
    left = num_documents
    for call in calls:
        if left <= 0:
            return
        documents = list(islice(call.documents, left))
        left -= len(documents)
        share = call.num_tokens * len(documents) // len(call.documents)
        yield BenchCall(call.query, documents, share, call.instruction)


def _around(wanted: int, ratio: float) -> tuple[int, int]:
    low, high = int(np.floor(wanted * (1 - ratio))), int(np.ceil(wanted * (1 + ratio)))
    return max(1, low), max(1, high)
