"""A decoder with an adapter and an encoder in one server, as users of vLLM's and SGLang's guides would start them."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.e2e.server import ServerProcess
from tests.families.oracles import pair_logits
from tests.support.adapters import make_adapter, merge
from tests.support.checkpoints import make_qwen3, make_xlm_roberta, official_qwen3_scores
from tests.support.texts import TEXTS

QUERY, DOCUMENTS = "what is panda?", list(TEXTS[:6])


def test_two_models_and_an_adapter(tmp_path: Path) -> None:
    base = make_qwen3(tmp_path / "Qwen3-Reranker")
    adapter = make_adapter(tmp_path / "adapter", base, ["q_proj", "v_proj"])
    merged = merge(tmp_path / "merged Qwen3-Reranker", base, adapter)
    encoder = make_xlm_roberta(tmp_path / "bge-reranker-v2-m3")
    flags = ["--served-model-name", "qwen", "bge", "--lora-modules", f"mine={adapter}", "--executor", "uni"]
    sglang = [
        "--is-embedding",
        "--disable-radix-cache",
        "--chunked-prefill-size",
        "-1",
        "--attention-backend",
        "triton",
    ]
    with ServerProcess(base, "--model", encoder, *flags, *sglang) as server:
        found = {}
        for name in (None, "qwen", "mine", "bge"):
            body = {"query": QUERY, "documents": DOCUMENTS, "return_documents": True} | (
                {"model": name} if name else {}
            )
            results = server.post("/v1/rerank", body).json()["results"]
            found[name] = {one["index"]: one["relevance_score"] for one in results}
        cards = requests.get(f"{server.url}/v1/models", timeout=10).json()["data"]
        missing = server.post("/v1/rerank", {"query": "q", "documents": ["d"], "model": "gpt"})
        raw = server.post(
            "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, "model": "bge", "use_activation": False}
        )
    assert [(card["id"], card["parent"]) for card in cards] == [("qwen", None), ("mine", "qwen"), ("bge", None)]
    assert found[None] == found["qwen"]
    assert found["qwen"] == pytest.approx(dict(enumerate(official_qwen3_scores(base, QUERY, DOCUMENTS))), abs=1e-5)
    assert found["mine"] == pytest.approx(dict(enumerate(official_qwen3_scores(merged, QUERY, DOCUMENTS))), abs=1e-5)
    logits = pair_logits(encoder, QUERY, DOCUMENTS)
    assert {one["index"]: one["relevance_score"] for one in raw.json()["results"]} == pytest.approx(
        dict(enumerate(logits)), abs=1e-5
    )
    assert missing.status_code == 404
    assert "Served here: qwen, mine, bge." in missing.text
