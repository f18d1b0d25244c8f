"""The JavaScript SDKs of Cohere, Voyage, the AI SDK and LangChain, called by one script under Node."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.known_call import DOCUMENTS, KEY, QUERY, Engine

FOLDER = Path(__file__).with_name("javascript")
NODE = shutil.which("node")
CALLS = [
    *("ai-sdk-voyage", "ai-sdk-voyage top 2", "ai-sdk-mixedbread", "ai-sdk-cohere", "ai-sdk-togetherai"),
    *("ai-sdk-bedrock", "ai-sdk-bedrock top 2", "voyageai-js", "voyageai-js top 2", "cohere-js", "cohere-js v2"),
    *("cohere-js v2, a base with its version", "cohere-js top 2", "langchain-js-cohere top 2"),
]


@pytest.fixture(scope="module")
def outcome(engine: Engine) -> dict[str, Any]:
    """What each client found, and the message that each got for a model that is not served."""
    if NODE is None:
        pytest.skip("the JavaScript clients need node, which is not installed here")
    if not (FOLDER / "node_modules").is_dir():
        pytest.skip("the JavaScript clients are installed by make test-clients, which needs npm")
    arguments = [engine.url, KEY, engine.model, QUERY, json.dumps(DOCUMENTS)]
    done = subprocess.run(
        [NODE, "clients.mjs", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.client("ai-sdk-voyage")
@pytest.mark.client("ai-sdk-mixedbread")
@pytest.mark.client("ai-sdk-cohere")
@pytest.mark.client("ai-sdk-togetherai")
@pytest.mark.client("ai-sdk-bedrock")
@pytest.mark.client("voyageai-js")
@pytest.mark.client("cohere-js")
@pytest.mark.client("langchain-js-cohere")
@pytest.mark.parametrize("call", CALLS)
def test_ranking(call: str, outcome: dict[str, Any], engine: Engine) -> None:
    found = outcome["found"][call]
    assert isinstance(found, list), found
    engine.check([(index, score) for index, score in found], top_n=2 if call.endswith("top 2") else None)


def test_all_calls_are_looked_at(outcome: dict[str, Any]) -> None:
    assert set(outcome["found"]) == set(CALLS)


@pytest.mark.parametrize("client", ["cohere", "voyage", "mixedbread", "togetherai", "bedrock"])
def test_errors_reach_the_caller(client: str, outcome: dict[str, Any]) -> None:
    assert "does not exist" in outcome["refused"][f"ai-sdk-{client}"]["error"]
