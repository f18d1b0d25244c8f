"""The Open Inference Protocol v2, and the reset of what is kept between calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engine.errors import EngineDeadError
from tests.serve.fakes import expected_score


def tensor(name: str, *texts: str, **other: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)} | other


async def test_infer(serving: Callable[..., Any]) -> None:
    async with serving() as server:
        body = {
            "id": "7",
            "inputs": [tensor("query", "a"), tensor("documents", "b", "c")],
            "outputs": [{"name": "scores"}],
        }
        answer = (await server.client.post("/v2/models/fake/infer", json=body)).json()
        assert (answer["model_name"], answer["id"]) == ("fake", "7")
        (scores,) = answer["outputs"]
        assert (scores["name"], scores["shape"], scores["datatype"]) == ("scores", [2], "FP32")
        assert scores["data"] == pytest.approx([expected_score("a", "b"), expected_score("a", "c")])
        nested = tensor("documents", shape=[2, 1], data=[["b"], ["c"]])
        each = {"inputs": [tensor("query", "x", "y"), nested, tensor("instruction", "judge")]}
        (scores,) = (await server.client.post("/v2/models/org/fake-reranker/infer", json=each)).json()["outputs"]
        assert scores["data"] == pytest.approx([expected_score("x", "b", "judge"), expected_score("y", "c", "judge")])


async def test_health_and_metadata(serving: Callable[..., Any]) -> None:
    async with serving(api_key=("k",)) as server:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await server.client.get(path)).status_code == 200
            assert (await server.client.head(path)).status_code == 200
        assert (await server.client.get("/v2/models/fake")).status_code == 401
        key = {"Authorization": "Bearer k"}
        model = (await server.client.get("/v2/models/fake", headers=key)).json()
        assert [one["name"] for one in model["inputs"]] == ["query", "documents", "instruction"]
        assert (await server.client.get("/v2/models/fake/ready", headers=key)).json()["ready"] is True
        assert (await server.client.get("/v2", headers=key)).json()["name"] == "engine"
        assert (await server.client.get("/v2/models/other/ready", headers=key)).status_code == 404
    async with serving(loaded=False) as server:
        assert (await server.client.get("/v2/health/ready")).status_code == 503


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([tensor("query", "a")], "'documents' is missing"),
        ([tensor("query", "a"), tensor("documents", "b", shape=[3])], "shape [3] and 1 texts"),
        ([tensor("query", "a"), tensor("documents", datatype="FP32", data=[1.0])], "texts are BYTES"),
        ([tensor("query", "a"), tensor("documents", data=[1], shape=[1])], "strings"),
        ([tensor("query", "a", "b"), tensor("documents", "b", "c", "d")], "2 queries for 3 documents"),
        ([tensor("query", "a"), tensor("question", "b")], "'question'"),
        ([tensor("query", "a"), tensor("query", "b")], "each once"),
        ("nonsense", "no inference request"),
    ],
)
async def test_what_is_wrong_is_named(serving: Callable[..., Any], inputs: Any, says: str) -> None:
    async with serving() as server:
        answer = await server.client.post("/v2/models/fake/infer", json={"inputs": inputs})
        assert answer.status_code == 400
        assert says in answer.json()["error"]


async def test_unknown_model(serving: Callable[..., Any]) -> None:
    async with serving() as server:
        body = {"inputs": [tensor("query", "a"), tensor("documents", "b")]}
        answer = await server.client.post("/v2/models/other/infer", json=body)
        assert answer.status_code == 404
        assert "does not exist" in answer.json()["error"]


async def test_reset_prefix_cache_is_behind_the_key(serving: Callable[..., Any]) -> None:
    async with serving(api_key=("k",)) as server:
        assert (await server.client.post("/reset_prefix_cache")).status_code == 401
        answer = await server.client.post("/reset_prefix_cache", headers={"Authorization": "Bearer k"})
        assert (answer.status_code, server.core.num_resets) == (200, 1)


async def test_a_failure_names_no_path_of_this_machine(
    serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:

        async def fails(*arguments: object, **settings: object) -> None:
            raise EngineDeadError("The worker lost /srv/models/secret/model.safetensors.")

        monkeypatch.setattr(server.service, "score", fails)
        body = {"inputs": [tensor("query", "a"), tensor("documents", "b")]}
        answer = await server.client.post("/v2/models/fake/infer", json=body)
        assert (answer.status_code, list(answer.json())) == (503, ["error"])
        assert "secret" not in answer.text
