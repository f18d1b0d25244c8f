"""One real server for all clients, with a key, so that a client whose key does not arrive is noticed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine
from tests.e2e.server import ServerProcess


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with ServerProcess("--api-key", KEY, "--served-model-name", "reranker") as server:

        def scores(**more: bool) -> list[float]:
            body = {"text_1": QUERY, "text_2": DOCUMENTS, **more}
            headers = {"Authorization": f"Bearer {KEY}"}
            answer = requests.post(f"{server.url}/v1/score", json=body, headers=headers, timeout=60)
            return [entry["score"] for entry in answer.json()["data"]]

        yield Engine(server.url, "reranker", scores(), scores(use_activation=False))
