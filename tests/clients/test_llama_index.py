"""llama-index' postprocessors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

pytest.importorskip("llama_index.core", reason="the clients are installed by make test-clients")
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode


def ranked(postprocessor: Any) -> list[tuple[str, float]]:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS]
    found = postprocessor.postprocess_nodes(nodes, query_bundle=QueryBundle(QUERY))
    return [(item.node.get_content(), float(item.score)) for item in found]


@pytest.mark.client("llama-index-cohere")
def test_cohere(engine: Engine) -> None:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    engine.check_texts(
        ranked(CohereRerank(model=engine.model, api_key=KEY, base_url=engine.url, top_n=3, max_retries=1)), top_n=3
    )


@pytest.mark.client("llama-index-jina")
def test_jina(engine: Engine) -> None:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    engine.check_texts(
        ranked(JinaRerank(model=engine.model, api_key=KEY, base_url=f"{engine.url}/v1", top_n=2)), top_n=2
    )
    with pytest.raises(RuntimeError, match="does not exist"):
        ranked(JinaRerank(model="no-such-model", api_key=KEY, base_url=f"{engine.url}/v1"))


@pytest.mark.client("llama-index-tei")
def test_tei(engine: Engine) -> None:
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    engine.check_texts(
        ranked(TextEmbeddingInference(base_url=engine.url, auth_token=f"Bearer {KEY}", top_n=3)), top_n=3
    )
    engine.check_texts(ranked(TextEmbeddingInference(base_url=engine.url, auth_token=KEY, top_n=2)), top_n=2)


@pytest.mark.client("llama-index-nvidia")
def test_nvidia(engine: Engine) -> None:
    from llama_index.postprocessor.nvidia_rerank import NVIDIARerank

    reranker = NVIDIARerank(model=engine.model, api_key=KEY, base_url=f"{engine.url}/v1", top_n=4, truncate="END")
    found = ranked(reranker)
    assert [DOCUMENTS.index(text) for text, _ in found] == engine.order
    assert [logit for _, logit in found] == pytest.approx([engine.logits[i] for i in engine.order], abs=1e-4)


@pytest.mark.client("llama-index-nvidia")
def test_nvidia_finds_the_model_by_itself(engine: Engine) -> None:
    from llama_index.postprocessor.nvidia_rerank import NVIDIARerank

    assert NVIDIARerank(api_key=KEY, base_url=f"{engine.url}/v1").model == engine.model


@pytest.mark.client("llama-index-siliconflow")
def test_siliconflow(engine: Engine) -> None:
    from llama_index.postprocessor.siliconflow_rerank import SiliconFlowRerank

    reranker = SiliconFlowRerank(model=engine.model, api_key=KEY, base_url=f"{engine.url}/v1/rerank", top_n=3)
    engine.check_texts(ranked(reranker), top_n=3)


@pytest.mark.client("llama-index-voyage")
def test_voyage(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    import voyageai
    from llama_index.postprocessor.voyageai_rerank import VoyageAIRerank

    reranker = VoyageAIRerank(model=engine.model, api_key=KEY, top_n=2)
    reranker._client = voyageai.Client(api_key=KEY, base_url=f"{engine.url}/v1")
    engine.check_texts(ranked(reranker), top_n=2)
