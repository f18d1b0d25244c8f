"""TEN FIXED QUESTIONS that the packaged model must answer, whatever checkpoint it is.

They are easy on purpose: the answer shares the question's words and the others are about something else. They tell a
working model from a broken one (wrong head, wrong template, damaged weights), not a good one from a better one; how
good it is stands in its own README.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine import LLM

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


def test_it_is_loaded_as_any_original_qwen3_reranker(packaged: LLM) -> None:
    """No path of its own through the loader."""
    spec = packaged.spec
    assert (spec.head.kind, spec.head.tokens) == ("from_2_way_softmax", ("no", "yes"))
    assert spec.template == "qwen3-reranker"
    assert spec.config["tie_word_embeddings"] is True
