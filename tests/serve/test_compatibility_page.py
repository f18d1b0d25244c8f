"""docs/compatibility.md says what the tests show."""

from __future__ import annotations

import json
import tomllib

from engine.entrypoints.assets.client_settings import known_clients
from engine.entrypoints.serve.dialect_registry import DIALECTS
from tests.support.compatibility import PAGE, ROOT, client_tests, page

PROMISED = {
    *("cohere-v1", "cohere-v2", "voyage", "langchain-cohere", "langchain-jina", "langchain-nvidia", "langchain-tei"),
    *("llama-index-cohere", "llama-index-jina", "llama-index-tei", "llama-index-nvidia", "llama-index-siliconflow"),
}


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == page(), "run python -m tests.support.compatibility"


def test_every_marked_client_is_known_and_the_promised_ones_are_tested() -> None:
    tested = set(client_tests())
    assert tested <= set(known_clients())
    assert tested >= PROMISED


def test_every_tested_package_is_installed_for_the_tests() -> None:
    folder = ROOT / "tests" / "clients"
    lines = "".join(path.read_text("utf-8") for path in folder.glob("requirements*.txt")).splitlines()
    installed = {line.partition("==")[0].strip() for line in lines if not line.startswith("#")}
    tested = [known_clients()[name] for name in client_tests()]
    assert {client.package for client in tested if client.package} <= installed
    packages = json.loads((folder / "javascript" / "package.json").read_text("utf-8"))["dependencies"]
    assert {client.npm for client in tested if client.npm} <= set(packages)


def test_settings_can_be_printed() -> None:
    table = tomllib.loads((ROOT / "entrypoints" / "assets" / "clients.toml").read_text("utf-8"))
    for name, client in known_clients().items():
        text = client.text("http://host:1", "the-key", "the-model")
        assert client.speaks in DIALECTS
        assert "{" + "url}" not in text
        assert "http://host:1" in text or "endpoint_name" in text, name
        if client.package:
            compile(table[name]["settings"].format(url="u", key="k", model="m"), name, "exec")
