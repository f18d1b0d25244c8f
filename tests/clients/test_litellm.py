"""LiteLLM's rerank providers, each with the base URL that docs/compatibility.md names for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

litellm = pytest.importorskip("litellm", reason="the clients are installed by make test-clients")
litellm.suppress_debug_info = True

NO_TEXTS = ("deepinfra", "nvidia_nim", "scaleway")
"""Providers that give no documents back."""


@dataclass
class Capture:
    """A server that keeps what it gets, and answers nothing useful."""

    url: str
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@contextlib.contextmanager
def capturing() -> Iterator[Capture]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items() if name.lower() != "host"}
            capture.requests.append((self.path, headers, body))
            self.send_error(400)

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    capture = Capture(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield capture
    finally:
        server.shutdown()
        server.server_close()


def rerank(engine: Engine, provider: str, base: str, model: str = "", **options: Any) -> Any:
    name = f"{provider}/{model or engine.model}"
    return litellm.rerank(
        model=name, query=QUERY, documents=DOCUMENTS, api_base=engine.url + base, api_key=KEY, num_retries=0, **options
    )


@pytest.mark.client("litellm")
@pytest.mark.parametrize(
    ("provider", "base"),
    [
        *(("cohere", base) for base in ("", "/", "/v1", "/v2", "/v2/rerank", "/cohere")),
        *(("jina_ai", base) for base in ("", "/v1", "/v1/rerank")),
        *(("infinity", base) for base in ("/infinity", "/infinity/", "/infinity/v1")),
        *(("hosted_vllm", base) for base in ("", "/v1", "/v1/rerank", "/vllm")),
        *(("voyage", base) for base in ("", "/v1", "/voyage", "/voyage/v1", "/voyage/v1/rerank")),
        *(("together_ai", base) for base in ("", "/v1", "/together/v1")),
        *(("fireworks_ai", base) for base in ("", "/v1", "/fireworks/v1")),
        *(("azure_ai", base) for base in ("", "/v1", "/v2/rerank", "/azure")),
        *(("dashscope", base) for base in ("", "/v1", "/compatible-api/v1", "/v1/rerank")),
        *(("deepinfra", base) for base in ("", "/v1", "/v1/openai", "/deepinfra")),
        *(("huggingface", base) for base in ("", "/tei")),
        ("scaleway", "/v1"),
    ],
)
@pytest.mark.parametrize("top_n", [None, 2])
def test_providers(provider: str, base: str, top_n: int | None, engine: Engine) -> None:
    if provider == "deepinfra" and top_n is not None:
        return  # it has no such option
    answer = rerank(engine, provider, base, **({} if top_n is None else {"top_n": top_n}))
    found = [(result["index"], result["relevance_score"]) for result in answer.results]
    if provider == "deepinfra":  # scores come in the order of the documents
        found.sort(key=lambda pair: -pair[1])
    engine.check(found, top_n=top_n)
    if provider not in NO_TEXTS:
        texts = [result["document"]["text"] for result in answer.results]
        assert texts == [DOCUMENTS[index] for index, _ in found]
    if provider != "huggingface":  # TEI's answer is a list, which has no place for them
        counted = {**(answer.meta.get("tokens") or {}), **answer.meta["billed_units"]}
        assert counted.get("input_tokens") or counted.get("total_tokens"), answer.meta


@pytest.mark.client("litellm")
def test_infinity_needs_its_prefix(engine: Engine) -> None:
    """Its bytes are those of ``hosted_vllm``, which reads objects where it reads texts: only the path tells them apart.
    Without documents in the answer, the plain base will do."""
    sent = {}
    for provider in ("infinity", "hosted_vllm"):
        with capturing() as capture:
            with contextlib.suppress(Exception):
                litellm.rerank(
                    model=f"{provider}/m", query=QUERY, documents=DOCUMENTS, api_base=capture.url, api_key=KEY
                )
            sent[provider] = capture.requests[0]
    assert sent["infinity"] == sent["hosted_vllm"]
    answer = rerank(engine, "infinity", "", return_documents=False)
    engine.check([(result["index"], result["relevance_score"]) for result in answer.results])


@pytest.mark.client("litellm")
@pytest.mark.parametrize("base", ["", "/v1"])
@pytest.mark.parametrize("model", ["reranker", "ranking/reranker"])
def test_nim(base: str, model: str, engine: Engine) -> None:
    answer = rerank(engine, "nvidia_nim", base, model, top_n=3)
    found = [(result["index"], result["relevance_score"]) for result in answer.results]
    assert [index for index, _ in found] == engine.order[:3]
    assert [logit for _, logit in found] == pytest.approx([engine.logits[i] for i in engine.order[:3]], abs=1e-4)


@pytest.mark.client("litellm")
def test_watsonx(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATSONX_TOKEN", KEY)  # else it asks IBM for one
    answer = litellm.rerank(
        model=f"watsonx/{engine.model}",
        query=QUERY,
        documents=DOCUMENTS,
        top_n=2,
        api_base=engine.url,
        api_key=KEY,
        project_id="project",
    )
    engine.check([(result["index"], result["relevance_score"]) for result in answer.results], top_n=2)


@pytest.mark.client("litellm")
@pytest.mark.parametrize("provider", ["cohere", "jina_ai", "hosted_vllm"])
def test_errors_reach_the_caller(provider: str, engine: Engine) -> None:
    with pytest.raises(Exception, match="does not exist"):
        rerank(engine, provider, "", "no-such-model")
