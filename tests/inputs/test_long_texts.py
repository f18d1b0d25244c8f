"""Long texts: tokenising costs what the model reads, and what is kept is what the whole text would have given."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import pytest
from tokenizers import Tokenizer

from engine.errors import InvalidRequestError, RequestError
from engine.inputs import part_limits, whole_prompts, windows
from engine.inputs.encoder_sample import _ALPHABETS, TEXTS
from engine.inputs.spans import Chunking, chunk_spans
from engine.inputs.windows import EncodingAbortedError, shortened
from engine.request import Encoded, EncodedPair, PairOptions
from tests.inputs.conftest import build
from tests.inputs.test_empty import FAMILIES
from tests.support.tokenizer_files import TOKENIZERS


@lru_cache
def tokenizer(name: str) -> Tokenizer:
    found = Tokenizer.from_str(TOKENIZERS[name]()[0])
    found.no_truncation()
    found.no_padding()
    found.encode_special_tokens = True
    return found


def long_texts(letters: int) -> list[str]:
    """Prose of many scripts, letters at random with and without spaces, and endless words."""
    rng = random.Random(1)
    prose = " ".join(rng.choice(TEXTS) for _ in range(letters // 20))
    mixed = ["".join(rng.choices(alphabet, k=letters)) for alphabet in _ALPHABETS]
    endless = [
        (piece * letters)[:letters] for piece in ("a", "ab", "the", "中文", "e\u0301", "a-", "1", "\n", "_=", "😀")
    ]
    return [prose[:letters], "\n".join(rng.choices(TEXTS, k=letters // 40))[:letters], *mixed, *endless]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_windows_give_the_tokens_of_the_whole_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOW", 4096)
    for text in long_texts(9000):
        whole = tokenizer(name).encode(text, add_special_tokens=False)
        parts = list(windows.windows(tokenizer(name), text))
        assert len(parts) > 2
        assert [i for part in parts for i in part.ids] == whole.ids, text[:40]
        for place, expected in zip((place for part in parts for place in part.offsets), whole.offsets, strict=True):
            assert place == expected or expected[1] - expected[0] > 2048, text[:40]  # an unknown word, longer than that


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["qwen3 reranker", "bert reranker", "xlm-roberta reranker", "qwen3 embedder"])
def test_what_is_kept_is_what_the_whole_text_gives(
    name: str, side: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = build(FAMILIES[name](tmp_path_factory.mktemp("model")))
    texts = long_texts(13_000)[side == "left" :: 2]
    calls = [
        (["query"], PairOptions(truncate_prompt_tokens=100, truncation_side=side)),
        (["query"], PairOptions(max_tokens_per_doc=60, truncation_side=side)),
        (["query " * 2500], PairOptions(truncate_prompt_tokens=100, truncation_side=side)),
        (["query " * 2500], PairOptions(max_tokens_per_query=20, truncate_prompt_tokens=100, truncation_side=side)),
    ]

    def encoded() -> list[Encoded]:
        found = [pair for queries, options in calls for pair in inputs.encode_each(queries, texts, options)]
        if "reranker" in name:
            found += inputs.encode_prompts_each(texts, calls[0][1])
        return found

    short = encoded()
    whole = windows.Shortened
    for module in (part_limits, whole_prompts):
        monkeypatch.setattr(module, "shortened", lambda _tokenizer, text, _limit, _side: whole(text, is_whole=True))
    for pair, expected in zip(short, encoded(), strict=True):
        if isinstance(expected, RequestError):
            assert str(pair) == str(expected)
            continue
        assert isinstance(pair, EncodedPair)
        assert pair.token_ids.tolist() == expected.token_ids.tolist()
        assert pair.query_len == expected.query_len
        assert (pair.truncated_query, pair.truncated_document) == (
            expected.truncated_query,
            expected.truncated_document,
        )


class Counting:
    """A tokenizer that counts the letters that it is given."""

    def __init__(self, inner: Tokenizer) -> None:
        self.inner, self.letters = inner, 0

    def encode(self, text: str, **options: Any) -> Any:
        self.letters += len(text)
        return self.inner.encode(text, **options)

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        return self.inner.encode_batch(texts, **options)

    def encode_batch_fast(self, texts: list[str], **options: Any) -> Any:
        self.letters += sum(map(len, texts))
        return self.inner.encode_batch_fast(texts, **options)


@pytest.mark.parametrize("name", ["qwen", "bert", "xlm-roberta"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("piece", ["some words and more ", "a", " ", "\u0301", "中", "\n", "\u200b"])
def test_the_cost_is_that_of_what_is_kept(name: str, side: Any, piece: str) -> None:
    text = piece * (4 * 10**6 // len(piece))
    counting: Any = Counting(tokenizer(name))
    found = shortened(counting, text, 512, side)
    assert not found.is_whole
    assert counting.letters <= windows.MIN_READ + windows.WINDOW
    assert len(found.text) <= windows.MIN_READ + windows.WINDOW
    if not found.is_cut:
        assert counting.letters < 100_000


def test_nobody_waits_any_more() -> None:
    counting: Any = Counting(tokenizer("qwen"))
    asked = iter([False, False, True])
    with pytest.raises(EncodingAbortedError):
        chunk_spans(counting, ["word " * 10**6], [Chunking.of(512, None, None)], lambda: next(asked))
    assert counting.letters <= 4 * windows.WINDOW


def test_chunks_of_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in long_texts(9000)[::3]:
        for how in (Chunking.of(512, None, None), Chunking.of(512, 64, 8, most=3), Chunking.of(512, 64, 8, limit=700),
                    Chunking.of(512, 64, 8, limit=700, side="left")):  # fmt: skip
            expected = chunk_spans(tokenizer("qwen"), [text], [how])
            with monkeypatch.context() as patch:
                for module in ("windows", "spans"):
                    patch.setattr(f"engine.inputs.{module}.WINDOW", 4096)
                assert chunk_spans(tokenizer("qwen"), [text], [how]) == expected


def test_lengths_that_are_not_known(inputs: Any) -> None:
    options = PairOptions(truncate=False, truncate_prompt_tokens=200)
    long, short = inputs.encode_each(["q"], ["word " * 10**5, "d"], options)
    assert isinstance(long, InvalidRequestError)
    assert str(long).startswith("documents[0] has more than 200 tokens")
    assert isinstance(short, EncodedPair)
    blank = inputs.encode_each(["q"], [" " * 3 * 10**6], PairOptions(truncate_prompt_tokens=200))[0]
    assert blank.truncated_document


@pytest.mark.parametrize("name", ["qwen3 reranker", "bert reranker", "xlm-roberta reranker"])
def test_tokens_in_windows(name: str, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = build(FAMILIES[name](tmp_path_factory.mktemp("model")))
    for module in ("windows", "token_access"):
        monkeypatch.setattr(f"engine.inputs.{module}.WINDOW", 4096)
    for text in long_texts(9000)[:6]:
        for special in (True, False):
            parts = list(inputs.token_windows(text, add_special_tokens=special))
            assert len(parts) > 2
            whole = inputs.text_tokens(text, add_special_tokens=special)
            assert [token.id for part in parts for token in part] == [token.id for token in whole]
            assert [token.start for part in parts for token in part] == [token.start for token in whole]
            ids = [one for part in inputs.id_windows(text, add_special_tokens=special) for one in part]
            assert ids == [token.id for token in whole]
