"""The benchmark of the host: its pieces run, and its device answers what was asked."""

from __future__ import annotations

import numpy as np

from benchmarks.host.checkpoint import published_tokenizer
from benchmarks.host.core_alone import TimedCore, measure, requests_of
from benchmarks.host.sampler import sampling
from benchmarks.host.workloads import Calls, text_calls, token_calls
from tests.support.tokenizer_files import QWEN_ADDED


def test_the_core_answers_every_pair_and_every_stage_is_timed() -> None:
    kind = Calls("small", 3, 5)
    constant_prefix, calls = token_calls(kind)
    timed = TimedCore(constant_prefix)
    assert timed.score(requests_of(calls, 1)) == 15
    assert all(seconds > 0 for seconds in timed.seconds.values())
    found = measure(kind, 0.0)
    assert found["pairs"] == 45
    assert abs(sum(found["stages_us_a_pair"].values()) - found["us_a_pair"]) < 1e-6


def test_calls_as_texts_are_distinct_words_of_the_library() -> None:
    first, second = text_calls(2, 3)
    assert len({*first.documents, *second.documents}) == 6
    assert all(len(document.split()) == 60 for document in first.documents)


def test_a_tokenizer_of_ranks_gives_the_tokens_of_its_ranks() -> None:
    import base64

    from tokenizers import Tokenizer

    words = [bytes([byte]) for byte in range(256)] + [b"ab", b"abc", b" abc"]
    ranks = b"\n".join(base64.b64encode(word) + b" %d" % rank for rank, word in enumerate(words))
    tokenizer = Tokenizer.from_str(published_tokenizer(ranks))
    assert tokenizer.encode("abc abc").ids == [257, 258]
    assert tokenizer.get_vocab_size() == len(words) + len(QWEN_ADDED)


def test_samples_name_the_function_that_ran() -> None:
    from engine.kernels.ranges import expand_ranges

    with sampling() as samples:
        for _ in range(400):
            expand_ranges(np.zeros(2000, np.int64), np.full(2000, 40))
    assert samples.total > 0
    assert "ranges.expand_ranges" in " ".join(samples.inner)
