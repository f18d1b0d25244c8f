"""Texts that already carry the prompt give the ids of plain ones, and half a prompt is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidRequestError
from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from tests.inputs.conftest import build
from tests.support.checkpoints import INSTRUCTION, PREFIX, SUFFIX, official_qwen3_ids
from tests.support.texts import HOSTILE, TEXTS


def wrap(query: str, document: str, instruction: str = INSTRUCTION) -> tuple[str, str]:
    """As the tutorial's client does."""
    return f"{PREFIX}<Instruct>: {instruction}\n<Query>: {query}\n", f"<Document>: {document}{SUFFIX}"


def as_call(query: str, document: str) -> tuple[list[str], list[str]]:
    formatted, formatted_document = wrap(query, document)
    return [formatted], [formatted_document]


@pytest.mark.parametrize("instruction", [INSTRUCTION, "Find code", "a\n<Query>: b"])
def test_equal_to_plain(inputs: InputProcessor, qwen3: Path, instruction: str) -> None:
    query = "What is the capital of China?"
    wrapped = [wrap(query, text, instruction) for text in TEXTS]
    found = inputs.encode([wrapped[0][0]], [document for _, document in wrapped])
    expected = official_qwen3_ids(qwen3, query, TEXTS, instruction)
    assert [pair.token_ids.tolist() for pair in found] == expected


plain = st.one_of(st.sampled_from([*TEXTS, *HOSTILE]), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))


@settings(max_examples=200, deadline=None)
@given(query=plain.filter(str.strip), document=plain)
def test_what_lies_between_is_ordinary_text(inputs: InputProcessor, query: str, document: str) -> None:
    if query.startswith(PREFIX):
        return
    formatted = inputs.encode(*as_call(query, document))[0]
    normal = inputs.encode([query], [document])[0]
    assert formatted.token_ids.tolist() == normal.token_ids.tolist()


def test_truncated_as_plain(inputs: InputProcessor) -> None:
    options = PairOptions(truncate_prompt_tokens=150, max_tokens_per_query=5)
    formatted = inputs.encode(*as_call("one two three " * 5, "word " * 500), options)[0]
    normal = inputs.encode(["one two three " * 5], ["word " * 500], options)[0]
    assert formatted.truncated_document
    assert formatted.truncated_query
    assert formatted.token_ids.tolist() == normal.token_ids.tolist()


@pytest.mark.parametrize("where", [0, 1, 5, 12])
def test_the_halves_may_meet_anywhere_before_the_document(inputs: InputProcessor, where: int) -> None:
    joint = "\n<Document>: "
    query = f"{PREFIX}<Instruct>: {INSTRUCTION}\n<Query>: capital{joint[:where]}"
    found = inputs.encode([query], [f"{joint[where:]}Beijing{SUFFIX}"])[0]
    assert found.token_ids.tolist() == inputs.encode(["capital"], ["Beijing"])[0].token_ids.tolist()


@pytest.mark.parametrize(
    "ending",
    ["<|im_end|>\n<|im_start|>assistant\n", SUFFIX.removesuffix("\n"), SUFFIX],
    ids=["no think", "short", "official"],
)
@pytest.mark.parametrize("body", [("<Instruct>: i\n<Query>: q\n", "<Document>: d"), ("Q: q\n", "D: d <|im_end|>")])
def test_other_bodies_and_endings_are_sent_as_they_are(
    inputs: InputProcessor, qwen3: Path, body: tuple[str, str], ending: str
) -> None:
    from tests.support.checkpoints import _hf_tokenizer

    tokenizer = _hf_tokenizer(str(qwen3))
    found = inputs.encode([PREFIX + body[0]], [body[1] + ending])[0].token_ids.tolist()
    middle = inputs.tokenize("".join(body))
    assert found == tokenizer.encode(PREFIX) + middle + tokenizer.encode(ending)


def test_half_a_prompt(inputs: InputProcessor, qwen3: Path) -> None:
    query, document = wrap("capital", "Beijing")
    with pytest.raises(InvalidRequestError, match="Send both halves") as caught:
        inputs.encode([query], [document, "Beijing"])
    assert caught.value.param == "documents[1]"
    # The other half alone is a text that happens to end so.
    alone = inputs.encode(["capital"], [document])[0]
    assert sum(token == "<|im_end|>" for token in inputs.token_strings(alone.token_ids)) == 2
    assert inputs.detokenize(alone.token_ids).count("<think>") == 2


def test_blank_query_inside(inputs: InputProcessor) -> None:
    query, document = wrap("  ", "Beijing")
    with pytest.raises(InvalidRequestError, match="query is empty"):
        inputs.encode([query], [document])


def test_mixed_call(inputs: InputProcessor) -> None:
    formatted, document = wrap("capital", "Beijing")
    found = inputs.encode([formatted, "capital"], [document, "Beijing"])
    assert found[0].token_ids.tolist() == found[1].token_ids.tolist()


def test_without_a_template_of_its_own(small: Callable[..., Path], inputs: InputProcessor) -> None:
    raw = build(small(), score_template="none")
    formatted, document = wrap("capital", "Beijing")
    expected = inputs.encode(["capital"], ["Beijing"])[0].token_ids.tolist()
    assert raw.encode([formatted], [document])[0].token_ids.tolist() == expected
    assert raw.detokenize(raw.encode(["capital"], [" Beijing"])[0].token_ids) == "capital Beijing"


def test_beside_pairs_in_the_tokenizers_form(small: Callable[..., Path], inputs: InputProcessor) -> None:
    folder = small(converted=True, name=None)
    pairs = build(folder, hf_overrides={"use_sep_token": True})
    formatted, document = wrap("capital", "Beijing")
    found = pairs.encode([formatted, "capital"], [document, "Beijing"])
    assert found[0].token_ids.tolist() == inputs.encode(["capital"], ["Beijing"])[0].token_ids.tolist()
    assert found[1].token_ids.tolist() == inputs.tokenize("capital") + inputs.tokenize("Beijing")
    assert found[1].query_len == len(inputs.tokenize("capital"))
