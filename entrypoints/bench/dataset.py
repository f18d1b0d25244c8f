"""What is sent: calls of one query and some documents, made at random or read from files.

Queries are distinct unless ``--shared-query-ratio`` says otherwise: one query for a whole run, as other benches have
it, measures the prefix cache more than the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from engine.entrypoints.bench.call import BenchCall
from engine.entrypoints.bench.dataset_files import READERS
from engine.entrypoints.bench.options import DataOptions
from engine.entrypoints.bench.texts import TextMaker, WordTexts, text_maker
from engine.errors import ConfigError


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
        yield BenchCall.of(query, documents, texts)


def check_data_options(options: DataOptions, num_documents: int) -> None:
    """Raises ``ConfigError`` for options that are wrong before any text is read or made."""
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
    texts = WordTexts() if options.tokenizer is None else text_maker(options, model_root)
    read = READERS[options.dataset_name]
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
