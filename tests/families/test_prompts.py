"""Prompts of published decoders on any text: the ids are those of the code that was published with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import InvalidRequestError
from engine.inputs.processor import InputProcessor
from engine.request import PairOptions
from tests.families.cases import FAMILIES
from tests.families.oracles import gemma_ids, joined_ids, mxbai_ids
from tests.inputs.conftest import build
from tests.support.checkpoints import make_qwen3
from tests.support.texts import TEXTS

QUERIES = [text for text in TEXTS if text.strip()][::4]
Make = Callable[[str], tuple[Path, InputProcessor]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def make(name: str) -> tuple[Path, InputProcessor]:
        family = FAMILIES[name]
        folder = family.make(tmp_path_factory.mktemp(name), next(iter(family.shapes)))
        return folder, build(folder, **family.settings)

    return make


def ids(inputs: InputProcessor, query: str, **options: Any) -> list[list[int]]:
    return [pair.token_ids.tolist() for pair in inputs.encode([query], list(TEXTS), PairOptions(**options))]


def test_mxbai_with_and_without_an_instruction(made: Make) -> None:
    folder, inputs = made("qwen2")
    for query in QUERIES:
        assert ids(inputs, query) == mxbai_ids(folder, query, TEXTS)
        assert ids(inputs, query, instruction="Find code") == mxbai_ids(folder, query, TEXTS, "Find code")


def test_gemma_has_no_place_for_an_instruction(made: Make) -> None:
    folder, inputs = made("gemma")
    for query in QUERIES:
        assert ids(inputs, query) == gemma_ids(folder, query, TEXTS)
    with pytest.raises(InvalidRequestError, match="no place for an instruction"):
        inputs.encode(["a"], ["b"], PairOptions(instruction="Find code"))


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_joined_texts_begin_as_the_tokenizer_begins(made: Make, name: str) -> None:
    folder, inputs = made(name)
    for query in QUERIES:
        assert ids(inputs, query) == joined_ids(folder, query, TEXTS)


def test_zerank(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = make_qwen3(tmp_path / "model", layers=1)
    config = ModelConfig(model=str(folder))
    inputs = InputProcessor(replace(resolve_model(config), template="zerank-2"), config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for query in (*QUERIES, "  a query \n"):
        for instruction in (None, "Find code"):
            query_text = query.strip()
            asked = (
                f"<query>{query_text}</query>\n<instruction>{instruction}</instruction>" if instruction else query_text
            )
            prompts = [
                f"<|im_start|>system\n{asked}<|im_end|>\n<|im_start|>user\n{text.strip()}<|im_end|>\n<|im_start|>assistant\n"
                for text in (*TEXTS, " spaces around \n")
            ]
            expected = [list(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
            documents = [*TEXTS, " spaces around \n"]
            pairs = inputs.encode([query], documents, PairOptions(instruction=instruction))
            assert [pair.token_ids.tolist() for pair in pairs] == expected
