"""Texts of no tokens: one rule on every path. A query without a token is an error, and so is a sequence without one,
each about its own document; what is next to it is scored."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import LLM
from engine.errors import InvalidRequestError, RequestError
from engine.inputs.processor import InputProcessor
from engine.request import ChunkOptions, Encoded, PairOptions, RerankCall
from engine.scoring.call_encoding import CallEncoding, core_request
from tests.families.test_embedding import ENCODER, QWEN3, add_modules
from tests.inputs.conftest import build
from tests.support.checkpoints import make_bert, make_qwen3, make_xlm_roberta
from tests.support.random_models import save_random


def embedder(architecture: str, tokenizer: str, **config: Any) -> Callable[[Path], Path]:
    pooling = "lasttoken" if tokenizer == "qwen" else "mean"
    return lambda folder: add_modules(save_random(folder, architecture, tokenizer, **config), pooling, {})


def emptied(folder: Path) -> Path:
    """An embedder whose tokenizer adds nothing and whose normaliser takes every digit out."""
    made = add_modules(save_random(folder, "Qwen3Model", "qwen", **QWEN3), "lasttoken", {})
    stored = json.loads((made / "tokenizer.json").read_text())
    stored["normalizer"] = {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": ""}
    (made / "tokenizer.json").write_text(json.dumps(stored))
    return made


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "qwen3 reranker": lambda folder: make_qwen3(folder / "m", hidden=16, layers=1, head_dim=8, intermediate=16),
    "bert reranker": lambda folder: make_bert(folder / "m"),
    "xlm-roberta reranker": lambda folder: make_xlm_roberta(folder / "m"),
    "bert embedder": embedder("BertModel", "bert", **ENCODER),
    "modernbert embedder": embedder("ModernBertModel", "modernbert", **ENCODER, pad_token_id=3),
    "qwen3 embedder": embedder("Qwen3Model", "qwen", **QWEN3),
    "qwen3 embedder that empties digits": emptied,
}


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], InputProcessor]:
    @lru_cache
    def made(name: str) -> InputProcessor:
        return build(FAMILIES[name](tmp_path_factory.mktemp("model")))

    return made


PIECES = (
    "",
    " ",
    "\n",
    "a",
    "0",
    "42",
    "\u200b",
    "\ufeff",
    "\u0301",
    "\0",
    "\u202e",
    "中",
    "😀",
    "\x7f",
    "\u00ad",
    "b c",
)
texts = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)


def check(found: Encoded, where: str) -> None:
    """A pair that the core can compute, or an error about the pair's own field."""
    if isinstance(found, RequestError):
        assert found.param is not None
        assert found.param.startswith(("query", "queries", where)), found.param
        return
    assert len(found.token_ids)
    if found.bi_encoder:
        assert 0 < found.query_len < len(found.token_ids)
    request = core_request("x", [found], arrival_s=0.0)
    assert request.pair_lens.min() > 0


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=20, deadline=None)
@given(
    queries=st.lists(texts.filter(str.strip), min_size=1, max_size=3),
    documents=st.lists(texts, min_size=1, max_size=3),
    per_doc=st.sampled_from([0, 0, 1, 2]),
    chunks=st.booleans(),
)
def test_no_path_makes_an_empty_sequence(
    name: str, processor: Any, queries: list[str], documents: list[str], per_doc: int, chunks: bool
) -> None:
    inputs = processor(name)
    options = PairOptions(max_tokens_per_doc=per_doc, max_tokens_per_query=per_doc)
    how = ChunkOptions(tokens=16) if chunks else None
    call = RerankCall(queries=queries, documents=documents, every_query=True, chunks=how, options=options)
    encoding = CallEncoding(call, inputs)
    with suppress(RequestError):  # about the query: then nothing goes to the core
        for _ in encoding.slices(2):
            pass
        scored = encoding.scored_texts()
        assert len(encoding.pairs) == scored.num_pairs
        settled = {scored.result_of(pair) for pair in range(scored.num_pairs)}
        assert settled | set(scored.refused) == set(range(call.num_pairs))
        assert not settled & set(scored.refused)
        for pair in encoding.pairs:
            check(pair, "documents")
    if "reranker" in name:
        for found in inputs.encode_prompts_each([*queries, "", *documents]):
            check(found, "prompts")


@pytest.mark.parametrize("name", FAMILIES)
def test_ids(name: str, processor: Any) -> None:
    inputs = processor(name)
    found = inputs.encode_ids_each([[5]], [[6], [], [7, 8], [10**7]])
    for pair in found:
        check(pair, "documents")
    assert isinstance(found[3], InvalidRequestError)
    if "embedder" in name:
        with pytest.raises(InvalidRequestError, match=r"^query"):
            inputs.encode_ids_each([[]], [[6]])
    found = inputs.encode_ids_each([[5], [], [6]], [[6], [], [7] * 10**5])
    assert [isinstance(pair, InvalidRequestError) for pair in found] == [False, True, True]


def test_a_cut_to_nothing_is_an_error(processor: Any) -> None:
    inputs = processor("qwen3 reranker")
    found = inputs.encode_each(["q"], ["😀😀", "word"], PairOptions(max_tokens_per_doc=1))
    assert str(found[0]).startswith("documents[0] has no token left")
    assert not isinstance(found[1], RequestError)


def test_llm_scores_the_others(tmp_path: Path) -> None:
    with LLM(model=str(emptied(tmp_path)), device="cpu", cpu_threads=1) as llm:
        b, empty, digits, a = llm.score("b", ["b", "", "42", "a"], use_tqdm=False)
        assert b.outputs.score == pytest.approx(1.0, abs=1e-5)
        assert np.isfinite(a.outputs.score)
        assert math.isnan(empty.outputs.score)
        assert str(empty.error).startswith("documents[1] has no token")
        assert digits.cause is not None
        assert digits.cause.path == ("documents", 2)
        (only,) = llm.score("b", "", use_tqdm=False)
        assert only.error is not None
        chunked = llm.score("b", ["", "b " * 600], long_document="chunk", use_tqdm=False)
        assert [one.error is None for one in chunked] == [False, True]
        ids = llm.score([[7]], [[7], [8]], use_tqdm=False)
        assert all(one.error is None for one in ids)
        with pytest.raises(InvalidRequestError, match=r"^query has no token"):
            llm.rerank("42", ["a"])
        with pytest.raises(InvalidRequestError, match=r"^documents\[1\] has no token"):
            llm.rerank("a", ["a", "7"])
