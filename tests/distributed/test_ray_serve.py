"""The Ray Serve application: our routes through Ray's port, and a number of replicas that follows the queue."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.serve", exc_type=ImportError)

from engine.entrypoints.ray_serve import METRIC, ByQueuedTokens, app
from engine.errors import ConfigError

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


def context(now: int, *waiting: float, low: int = 1, high: int = 8) -> Any:
    return SimpleNamespace(
        aggregated_metrics={METRIC: dict(enumerate(waiting))},
        target_num_replicas=now,
        capacity_adjusted_min_replicas=low,
        capacity_adjusted_max_replicas=high,
    )


def test_the_number_of_replicas_follows_the_waiting_tokens() -> None:
    policy = ByQueuedTokens(1000)
    assert policy(context(1, 2500.0))[0] == 3
    assert policy(context(2, 900.0, 2200.0))[0] == 4
    assert policy(context(1, 50_000.0))[0] == 8, "at most max_replicas"
    assert policy(context(5, 10.0))[0] == 5, "what is there works off what waits"
    assert policy(context(5, 0.0))[0] == 4
    assert policy(context(1, 0.0))[0] == 1
    assert policy(context(1))[0] == 1, "no report yet"


@pytest.mark.parametrize(
    "arguments", [{"max_replicas": "many"}, {"min_replicas": "0"}, {"no_such_setting": "1"}, {"dtype": "float3"}]
)
def test_wrong_settings_stop_before_anything_is_placed(arguments: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        app(arguments)


def test_the_example(cluster: Any, checkpoint: Path) -> None:
    """The routes, dialects and errors are ours; only the port is Ray's."""
    from ray import serve

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        arguments = {"model": str(checkpoint), "device": "cpu", "cpu_threads": "1", "max_replicas": "2"}
        serve.run(app(arguments), name="rerank", route_prefix="/")

        def call(body: Any) -> tuple[int, dict[str, Any]]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/rerank",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    return response.status, json.load(response)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        documents = ["Pandas eat bamboo.", "Rivers are long.", "The capital of China is Beijing."]
        status, answer = call({"query": "what do pandas eat?", "documents": documents})
        assert status == 200
        assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2]
        scores = [result["relevance_score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True)
        status, answer = call({"documents": ["no query"]})
        assert status == 400
        assert "query" in json.dumps(answer)
    finally:
        serve.shutdown()
