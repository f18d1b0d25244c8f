"""TEN FIXED QUESTIONS that the packaged model must answer, whatever checkpoint it is.

They are easy on purpose: the answer shares the question's words and the others are about something else. They tell a
working model from a broken one (wrong head, wrong template, damaged weights), not a good one from a better one; how
good it is stands in its own README.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from engine import LLM
from engine.checkpoint.hub import PACKAGED_MODEL
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig

ROOT = Path(__file__).parents[2]
QUESTIONS: dict[str, tuple[str, list[str]]] = {
    "What is the capital of China?": (
        "The capital of China is Beijing.",
        [
            "Gravity attracts two bodies towards each other.",
            "Bread rises because yeast makes gas.",
            "The train was late.",
        ],
    ),
    "Why is the sky blue?": (
        "The sky is blue because air scatters blue light more than red light.",
        ["A cat sleeps most of the day.", "Put the screws into the left hole first.", "He paid the bill and left."],
    ),
    "how to install a Debian package": (
        "To install a Debian package, run apt install with the name of the package.",
        ["The recipe needs two eggs and some flour.", "Whales are mammals.", "The museum is closed on Mondays."],
    ),
    "undo the last git commit": (
        "git reset moves the branch back and so undoes the last git commit.",
        ["Tomatoes need sun and water.", "The bridge was built in 1890.", "She plays the violin in an orchestra."],
    ),
    "sort a list in Python": (
        "In Python, the method sort of a list puts its items in order.",
        ["Rivers carry water to the sea.", "A passport is valid for ten years.", "The lamp needs a new bulb."],
    ),
    "What is the boiling point of water?": (
        "The boiling point of water at sea level is one hundred degrees Celsius.",
        ["The parliament meets in spring.", "Dogs were the first animals to be tamed.", "Turn right after the church."],
    ),
    "compress a file from the command line": (
        "gzip compresses a file from the command line and adds .gz to its name.",
        ["Honey is made by bees.", "The concert begins at eight.", "Wool is warmer than cotton."],
    ),
    "symptoms of the flu": (
        "Symptoms of the flu are fever, cough, headache and tiredness.",
        ["The printer is out of paper.", "Granite is a hard stone.", "The court will decide next week."],
    ),
    "Who wrote Romeo and Juliet?": (
        "The play Romeo and Juliet was written by William Shakespeare.",
        ["Copper conducts electricity well.", "The shop sells used bicycles.", "Rice grows in wet fields."],
    ),
    "convert a string to an integer": (
        "The function int converts a string to an integer.",
        ["The moon goes round the earth.", "Soap removes grease.", "Her brother lives in Canada."],
    ),
}


@pytest.fixture(scope="module")
def packaged() -> Iterator[LLM]:
    with LLM(device="cpu", cpu_threads=1) as llm:
        yield llm


def test_there_are_ten() -> None:
    assert len(QUESTIONS) == 10


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_comes_first(packaged: LLM, question: str) -> None:
    answer, others = QUESTIONS[question]
    for documents in ([answer, *others], [*others, answer]):
        best = packaged.rerank(question, documents)[0]
        assert best.document == answer
        assert 0 < best.score < 1


def test_it_is_loaded_as_any_bi_encoder(packaged: LLM, caplog: pytest.LogCaptureFixture) -> None:
    """No path of its own through the loader, and nothing to guess: its files say what it is."""
    with caplog.at_level(logging.WARNING):
        spec = resolve_model(ModelConfig())
    assert not caplog.records
    assert spec == packaged.spec
    assert spec.config["architectures"] == ["BertModel"]
    assert (spec.head.kind, spec.head.pooling, spec.head.activation) == ("embedding", "mean", "cosine")
    assert spec.max_model_len == 512


def test_its_scores_are_those_of_sentence_transformers(packaged: LLM) -> None:
    """The wheel's own files, loaded by another library in float32."""
    model = SentenceTransformer(str(PACKAGED_MODEL), device="cpu", model_kwargs={"dtype": "float32"})
    for question, (answer, others) in QUESTIONS.items():
        query, *documents = model.encode([question, answer, *others], show_progress_bar=False)
        ours = [output.outputs.score for output in packaged.score(question, [answer, *others], use_tqdm=False)]
        assert ours == pytest.approx([float(query @ document) for document in documents], abs=1e-5)


def test_its_licence_and_what_was_changed_travel_with_it() -> None:
    assert "Apache License" in (PACKAGED_MODEL / "LICENSE").read_text()
    notice = " ".join((PACKAGED_MODEL / "NOTICE").read_text().split())
    for said in ("all-MiniLM-L6-v2", "Apache License, Version 2.0", "float16"):
        assert said in notice


def test_the_example_of_the_page_has_the_right_passage_first(packaged: LLM) -> None:
    """Its first document answers the question; the others are near it or not at all."""
    code = (ROOT / "entrypoints" / "serve" / "page" / "rank.js").read_text()
    example = re.search(r"const EXAMPLE = \{\s*query: (\".*?\"),\s*documents: \[(.*?)\s*\],", code, re.DOTALL)
    assert example is not None
    query, documents = json.loads(example[1]), json.loads(f"[{example[2].rstrip().rstrip(',')}]")
    assert len(documents) == 8
    ranked = packaged.rerank(query, documents)
    assert ranked[0].document == documents[0]
    assert ranked[-1].document == next(text for text in documents if "tax office" in text)
