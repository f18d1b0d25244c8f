"""Over-long pairs: the document is cut, then the query, never the template, and the pair says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, InvalidRequestError
from engine.inputs.processor import InputProcessor
from engine.inputs.truncation import MIN_DOCUMENT_TOKENS, Role, fit
from engine.request import EncodedPair, PairOptions
from tests.inputs.conftest import build
from tests.support.checkpoints import PREFIX, SUFFIX
from tests.support.texts import TEXTS

LONG = " ".join(TEXTS)


def encode(inputs: InputProcessor, query: str, document: str, **options: Any) -> EncodedPair:
    return inputs.encode([query], [document], PairOptions(**options))[0]


@settings(max_examples=150, deadline=None)
@given(
    query=st.integers(1, 400),
    document=st.integers(0, 400),
    limit=st.integers(90, 500),
    side=st.sampled_from(["left", "right"]),
)
def test_the_template_survives_every_cut(
    inputs: InputProcessor, query: int, document: int, limit: int, side: str
) -> None:
    query_text, document_text = "q" * 3 + " q" * query, " d" * document
    whole = encode(inputs, query_text, document_text)
    pair = encode(inputs, query_text, document_text, truncate_prompt_tokens=limit, truncation_side=side)
    text = inputs.detokenize(pair.token_ids)
    assert len(pair.token_ids) == min(limit, len(whole.token_ids))
    assert text.startswith(PREFIX)
    assert text.endswith(SUFFIX)
    assert "\n<Query>: q" in text
    assert "\n<Document>:" in text
    assert pair.truncated == (len(whole.token_ids) > limit)
    assert pair.truncated_query <= pair.truncated_document | (text.count(" d") <= MIN_DOCUMENT_TOKENS)
    if pair.truncated_query:  # the document gave all it could before
        assert text.count(" d") <= MIN_DOCUMENT_TOKENS
    if document:
        assert " d" in text
    assert inputs.detokenize(pair.token_ids[: pair.query_len]).endswith("\n<Document>:")


def test_which_end_goes(inputs: InputProcessor) -> None:
    document = "first " + "middle " * 300 + "last"
    right = inputs.detokenize(encode(inputs, "q", document, truncate_prompt_tokens=200).token_ids)
    left = inputs.detokenize(
        encode(inputs, "q", document, truncate_prompt_tokens=200, truncation_side="left").token_ids
    )
    assert "first" in right
    assert "last" not in right
    assert "first" not in left
    assert f"last{SUFFIX}" in left


def test_a_limit_that_does_not_bind_changes_nothing(inputs: InputProcessor) -> None:
    plain = inputs.encode(["capital"], list(TEXTS))
    longest = max(len(pair.token_ids) for pair in plain)
    for options in (
        {"max_tokens_per_doc": 4096, "max_tokens_per_query": 4096},
        {"max_tokens_per_doc": 100_000},
        {"truncate_prompt_tokens": longest},
        {"truncate_prompt_tokens": -1},
        {"truncate": False},
    ):
        limited = inputs.encode(["capital"], list(TEXTS), PairOptions(**options))
        for one, other in zip(plain, limited, strict=True):
            assert one.token_ids.tolist() == other.token_ids.tolist()
            assert not other.truncated


@pytest.mark.parametrize("limit", [1, 2, 7, 30])
@pytest.mark.parametrize("side", ["left", "right"])
def test_parts_are_cut_on_character_borders(inputs: InputProcessor, limit: int, side: str) -> None:
    for text in TEXTS:
        if not text.strip():
            continue
        pair = encode(inputs, "q", text, max_tokens_per_doc=limit, truncation_side=side)
        empty = encode(inputs, "q", "")
        span = pair.token_ids[pair.query_len : len(pair.token_ids) - (len(empty.token_ids) - empty.query_len - 1)]
        document = inputs.detokenize(span).removeprefix(" ")
        assert "\ufffd" not in document
        assert len(inputs.tokenize(document)) <= limit
        assert pair.truncated_document == (len(inputs.tokenize(text)) > limit)
        assert not pair.truncated_query


def test_query_limit(inputs: InputProcessor) -> None:
    query = "one two three four five six seven"
    pair = encode(inputs, query, "d", max_tokens_per_query=3)
    assert pair.truncated_query
    assert not pair.truncated_document
    kept = inputs.detokenize(inputs.tokenize(query)[:3])
    assert f"\n<Query>: {kept}\n" in inputs.detokenize(pair.token_ids)


def test_asked_not_to_cut(inputs: InputProcessor) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"documents\[1\]: the pair has \d+ tokens \(query 1, document \d+"
    ) as e:
        inputs.encode(["q"], ["d", LONG], PairOptions(truncate=False, truncate_prompt_tokens=200))
    assert e.value.param == "documents[1]"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": 40961}, "truncate_prompt_tokens"),
        ({"max_tokens_per_doc": -1}, "max_tokens_per_doc"),
        ({"max_tokens_per_query": -5}, "max_tokens_per_query"),
        ({"truncate_prompt_tokens": 60}, "documents[0]"),
        ({"instruction": LONG * 3, "truncate_prompt_tokens": 500}, "documents[0]"),
    ],
)
def test_impossible_limits(inputs: InputProcessor, options: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        inputs.encode(["capital"], ["d"], PairOptions(**options))
    assert caught.value.param == param


def test_model_length(small: Callable[..., Path]) -> None:
    folder = small()
    short = build(folder, max_model_len=128)
    pair = short.encode(["q"], [LONG])[0]
    assert len(pair.token_ids) == 128
    assert pair.truncated_document
    with pytest.raises(ConfigError, match="leaves no room"):
        build(folder, max_model_len=64)


@given(
    counts=st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 20)),
    limit=st.integers(1, 140),
    side=st.sampled_from(["left", "right"]),
)
def test_fit(counts: tuple[int, int, int], limit: int, side: str) -> None:
    query, document, template = counts
    roles = np.array([Role.TEMPLATE] * template + [Role.QUERY] * query + [Role.DOCUMENT] * document, np.int8)
    if len(roles) <= limit:
        return
    cut = fit(roles, limit, side)  # type: ignore[arg-type]
    if cut is None:
        assert query + document == 0 or limit - template < 1 + min(document, 1) or not query
        return
    kept = roles[cut.keep]
    assert len(kept) == limit
    assert (np.diff(cut.keep) > 0).all()
    assert (kept == Role.TEMPLATE).sum() == template
    assert (kept == Role.QUERY).any() == (query > 0)
    assert (kept == Role.DOCUMENT).any() == (document > 0)
    assert cut.num_document_cut == document - (kept == Role.DOCUMENT).sum()
    assert cut.num_query_cut == query - (kept == Role.QUERY).sum()
