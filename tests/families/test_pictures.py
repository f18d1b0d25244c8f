"""Qwen3-VL with pictures scores as transformers does: alone, in a batch, and however its steps are cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import LLM
from tests.support.pictures import Reference, Side, data_url, make_qwen3_vl, picture

WITH_TRANSFORMERS, IN_A_BATCH = 1e-5, 1e-6
WIDE, TALL, SMALL = picture(40, 64, 1), picture(90, 50, 2), picture(24, 24, 3)
QUERIES: tuple[Side, ...] = (([], "what is it?"), ([SMALL], ""), ([SMALL], "is it this?"))
DOCUMENTS: tuple[Side, ...] = (
    ([], "a cat on a mat"),
    ([WIDE], ""),
    ([TALL], "with a text"),
    ([SMALL, WIDE], "two"),
    ([WIDE], ""),
    ([picture(40, 64, 7)], ""),  # as many rows as the second, of other pixels
    ([], ""),
)
STEPS = ({}, {"max_num_batched_tokens": 64, "max_segment_tokens": 17})


def form(side: Side) -> Any:
    """What a caller sends for one side."""
    images, text = side
    if not images:
        return text
    if len(images) == 1:
        return {"image": data_url(images[0]), **({"text": text} if text else {})}
    parts = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in images]
    return {"content": [*parts, {"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl(tmp_path_factory.mktemp("vl") / "model")


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[float]]:
    reference = Reference(folder)
    return [[reference.score(query, document) for document in DOCUMENTS] for query in QUERIES]


@pytest.mark.parametrize("steps", STEPS, ids=["one step", "pictures cut by steps"])
def test_scores_are_those_of_transformers(folder: Path, expected: list[list[float]], steps: dict[str, int]) -> None:
    with LLM(str(folder), device="cpu", max_model_len=1024, **steps) as llm:
        for query, scores in zip(QUERIES, expected, strict=True):
            outputs = llm.score(form(query), [form(document) for document in DOCUMENTS], use_tqdm=False)
            assert [output.error for output in outputs] == [None] * len(DOCUMENTS)
            together = [output.outputs.score for output in outputs]
            assert together == pytest.approx(scores, abs=WITH_TRANSFORMERS)
            assert together[5] != pytest.approx(together[1], abs=1e-3), "other pixels, another score"
            alone = [llm.score(form(query), form(document), use_tqdm=False)[0] for document in DOCUMENTS]
            assert [output.outputs.score for output in alone] == pytest.approx(together, abs=IN_A_BATCH)
        pairs = [(query, document) for query in QUERIES for document in DOCUMENTS[:3]]
        outputs = llm.score([form(query) for query, _ in pairs], [form(one) for _, one in pairs], use_tqdm=False)
        wanted = [score for scores in expected for score in scores[:3]]
        assert [output.outputs.score for output in outputs] == pytest.approx(wanted, abs=WITH_TRANSFORMERS)


def test_a_shared_picture_is_computed_once_and_counted_for_every_pair(folder: Path) -> None:
    with LLM(str(folder), device="cpu", max_model_len=1024) as llm:
        query, documents = form(QUERIES[2]), ["one", "two", "three"]
        outputs = llm.score(query, documents, use_tqdm=False)
        lengths = [len(output.prompt_token_ids) for output in outputs]
        text_only = [len(o.prompt_token_ids) for o in llm.score("is it this?", documents, use_tqdm=False)]
        assert [a - b for a, b in zip(lengths, text_only, strict=True)] == [16 + 2] * 3
        stats = llm._client.stats()
    assert stats.logical_tokens - stats.computed_tokens > 2 * 18


def test_what_cannot_be_read_costs_its_document_alone(folder: Path, expected: list[list[float]]) -> None:
    broken = data_url(b"no picture at all")
    documents = ["a cat on a mat", {"image": broken}, {"image": [data_url(SMALL)] * 5}, form(DOCUMENTS[1])]
    with LLM(str(folder), device="cpu", max_model_len=256) as llm:
        outputs = llm.score("what is it?", documents, use_tqdm=False)
        large = llm.score("q", {"image": [data_url(picture(60, 64, seed)) for seed in range(4)]}, use_tqdm=False)
    assert "documents[1]: the picture cannot be read" in str(outputs[1].error)
    assert "documents[2]: the pair has 5 pictures" in str(outputs[2].error)
    assert "pictures" in str(large[0].error)
    assert "the limit is 256" in str(large[0].error)
    scores = [outputs[0].outputs.score, outputs[3].outputs.score]
    assert scores == pytest.approx(expected[0][:2], abs=WITH_TRANSFORMERS)


def test_served_for_texts_only(folder: Path) -> None:
    with LLM(str(folder), device="cpu", max_model_len=512, max_images_per_pair=0) as llm:
        weights = llm.info.weight_bytes
        assert llm.spec.vision is None
        (output,) = llm.score("what is it?", form(DOCUMENTS[1]), use_tqdm=False)
    assert "documents[0] shows a picture, and only text can be scored" in str(output.error)
    with LLM(str(folder), device="cpu", max_model_len=512) as llm:
        assert llm.info.weight_bytes > weights
