"""Haystack's rankers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

pytest.importorskip("haystack", reason="the clients are installed by make test-clients")
from haystack import Document
from haystack.utils import Secret

PAGES = [Document(content=text) for text in DOCUMENTS]


def ranked(ranker: Any) -> list[tuple[str, float]]:
    if hasattr(ranker, "warm_up"):
        ranker.warm_up()
    return [(page.content, page.score) for page in ranker.run(query=QUERY, documents=PAGES)["documents"]]


@pytest.mark.client("haystack-cohere")
def test_cohere(engine: Engine) -> None:
    from haystack_integrations.components.rankers.cohere import CohereRanker

    ranker = CohereRanker(
        model=engine.model, api_key=Secret.from_token(KEY), api_base_url=engine.url, top_k=3, max_tokens_per_doc=4096
    )
    engine.check_texts(ranked(ranker), top_n=3)


@pytest.mark.client("haystack-jina")
def test_jina(engine: Engine) -> None:
    from haystack_integrations.components.rankers.jina import JinaRanker

    ranker = JinaRanker(model=engine.model, api_key=Secret.from_token(KEY), base_url=f"{engine.url}/v1/rerank", top_k=3)
    engine.check_texts(ranked(ranker), top_n=3)


@pytest.mark.client("haystack-nvidia")
def test_nvidia(engine: Engine) -> None:
    from haystack_integrations.components.rankers.nvidia import NvidiaRanker

    ranker = NvidiaRanker(model=engine.model, api_url=f"{engine.url}/v1", api_key=Secret.from_token(KEY), top_k=4)
    found = ranked(ranker)
    assert [DOCUMENTS.index(text) for text, _ in found] == engine.order
    assert [logit for _, logit in found] == pytest.approx([engine.logits[i] for i in engine.order], abs=1e-4)


@pytest.mark.client("haystack-tei")
def test_tei(engine: Engine) -> None:
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

    ranker = HuggingFaceTEIRanker(url=engine.url, token=Secret.from_token(KEY), top_k=3)
    engine.check_texts(ranked(ranker), top_n=3)
