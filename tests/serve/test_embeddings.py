"""/v1/embeddings of the packaged bi-encoder, against the offline vectors; and of models that embed nothing."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from engine import LLM
from tests.e2e.server import ServerProcess

TEXTS = ["The capital of China is Beijing.", "Bamboo grows fast."]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--api-key", "k") as running:
        yield running


def post(server: ServerProcess, body: dict[str, Any], path: str = "/v1/embeddings") -> Any:
    return server.post(path, body, headers={"Authorization": "Bearer k"})


def test_vectors_are_those_of_the_offline_interface(server: ServerProcess) -> None:
    answer = post(server, {"input": TEXTS, "model": ""}).json()
    vectors = [entry["embedding"] for entry in answer["data"]]
    with LLM() as llm:
        expected = [output.outputs.embedding for output in llm.embed(TEXTS)]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    one = post(server, {"input": TEXTS[1], "encoding_format": "base64", "dimensions": len(vectors[0])}).json()
    found = np.frombuffer(base64.b64decode(one["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(found, vectors[1], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"input": []}, "input", "possible are 1 to"),
        ({"input": [1, 2]}, None, "asks for no embeddings"),
        ({"input": ["a"], "dimensions": 7}, "dimensions", "are not shortened"),
        ({"input": ["a", "word " * 900], "truncate": False}, "input[1]", "tokens, and the limit is 512"),
        ({"input": ["a"], "model": "no-such-model"}, "model", "does not exist"),
        ({"input": ["a"], "encoding_format": "int8"}, None, "encoding_format"),
    ],
)
def test_what_cannot_be_embedded_is_said(
    body: dict[str, Any], param: str | None, said: str, server: ServerProcess
) -> None:
    answer = post(server, body)
    assert answer.status_code in (400, 404)
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["param"] == param


def test_it_needs_the_key(server: ServerProcess) -> None:
    assert server.post("/v1/embeddings", {"input": "a"}).status_code == 401


async def test_a_model_that_scores_pairs_says_so_and_gives_its_permit_back(serving: Callable[..., Any]) -> None:
    async with serving() as running:
        answer = await running.client.post("/v1/embeddings", json={"input": "a"})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "This model scores pairs."
        assert running.service.admission.num_calls == 0
