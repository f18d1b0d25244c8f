"""What `engine clients` prints is run as it is printed, wherever its package is installed."""

from __future__ import annotations

import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.known_call import KEY, Engine

TABLE = Path(__file__).resolve().parents[2] / "entrypoints" / "assets" / "clients.toml"
MODULES = {
    "boto3": "boto3",
    "cohere": "cohere",
    "cohere-haystack": "haystack_integrations.components.rankers.cohere",
    "contextual-client": "contextual",
    "dashscope": "dashscope",
    "huggingface-api-haystack": "haystack_integrations.components.rankers.huggingface_api",
    "infinity-client": "infinity_client",
    "isaacus": "isaacus",
    "jina-haystack": "haystack_integrations.components.rankers.jina",
    "langchain-cohere": "langchain_cohere",
    "langchain-community": "langchain_community",
    "langchain-core": "langchain_core",
    "langchain-nvidia-ai-endpoints": "langchain_nvidia_ai_endpoints",
    "langchain-voyageai": "langchain_voyageai",
    "litellm": "litellm",
    "mixedbread": "mixedbread",
    "nvidia-haystack": "haystack_integrations.components.rankers.nvidia",
    "pinecone": "pinecone",
    "rerankers": "rerankers",
    "together": "together",
    "voyageai": "voyageai",
    "xinference-client": "xinference_client",
    "zeroentropy": "zeroentropy",
}
ELSEWHERE = ("langchain-sagemaker",)
"""Needs an account of the cloud that it runs in."""


def entries() -> list[Any]:
    clients = tomllib.loads(TABLE.read_text("utf-8"))
    return [pytest.param(name, entry, id=name) for name, entry in clients.items() if "package" in entry]


def llama_index_module(package: str) -> str:
    """llama-index-postprocessor-tei-rerank -> llama_index.postprocessor.tei_rerank"""
    kind, name = package.removeprefix("llama-index-").split("-", 1)
    return f"llama_index.{kind}.{name.replace('-', '_')}"


@pytest.mark.parametrize(("name", "entry"), entries())
def test_printed_settings_run(name: str, entry: dict[str, str], engine: Engine) -> None:
    package = entry["package"]
    module = MODULES.get(package) or llama_index_module(package)
    top = module.split(".")[0]
    if name in ELSEWHERE:
        pytest.skip(entry["note"])
    if find_spec(top) is None or find_spec(module) is None:
        pytest.skip(f"{package} is installed by make test-clients")
    code = entry["settings"].format(url=engine.url, key=KEY, model=engine.model)
    exec(compile(code, name, "exec"), {"__name__": "__main__", "requests": requests, "query": "q", "texts": ["a"]})
