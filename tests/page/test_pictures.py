"""The pictures in README and docs show what the packaged model says: their scores are compared with its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from engine import LLM
from engine.entrypoints.files.texts import read_texts
from engine.entrypoints.rank.ranking import rank_texts
from tests.entrypoints.capture_pages import IMAGE, IMAGE_FILE, IMAGE_QUERY, ROOT
from tests.page.pictures import FOLDER, ranking_of, with_ranking

ADVICE = "take the pictures again: python -m tests.page.pictures, python -m tests.entrypoints.capture_pages"


@pytest.fixture(scope="module")
def packaged() -> Iterator[LLM]:
    with LLM(device="cpu", cpu_threads=1) as llm:
        yield llm


@pytest.mark.parametrize("name", ["page-light.png", "page-mobile.png"])
def test_the_page(packaged: LLM, name: str) -> None:
    shown = ranking_of((FOLDER / name).read_bytes())
    ranked = packaged.rerank(shown["query"], [text for text, _ in shown["results"]])
    assert len(ranked) == 8
    assert [result.document for result in ranked] == [text for text, _ in shown["results"]], ADVICE
    scores = [float(score.rstrip("%")) for _, score in shown["results"]]
    assert scores == pytest.approx([result.score for result in ranked], abs=1e-3), ADVICE


def test_the_terminal(packaged: LLM) -> None:
    svg = IMAGE.read_text(encoding="utf-8").replace("&#160;", " ")
    shown = [float(score) for score in re.findall(r">\s*(-?\d\.\d\d+)<", svg)]
    ranking = rank_texts(packaged, IMAGE_QUERY, read_texts([str(ROOT / IMAGE_FILE)]))
    expected = [result.score for result in ranking.best_first][: len(shown)]
    assert len(shown) == 5
    assert shown == pytest.approx(expected, abs=6e-3), ADVICE


def test_a_picture_carries_its_ranking() -> None:
    png = (FOLDER / "page-engine-dark.png").read_bytes()
    with pytest.raises(ValueError, match="carries no ranking"):
        ranking_of(png)
    ranking = {"query": "q", "results": [["\u00e9", "0.5000"]]}
    assert ranking_of(with_ranking(png, ranking)) == ranking
