"""Pages of other sites: preflights, marked answers, and nobody let in who was not named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import ServerConfig
from engine.entrypoints.serve.auth import with_key_file
from engine.errors import ConfigError

APP = "https://app.example.com"
BODY = {"query": "a", "documents": ["b"]}
PREFLIGHT = {"Origin": APP, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


async def test_a_named_page_gets_in(serving: Callable[..., Any]) -> None:
    async with serving(allowed_origins=(APP,), api_key=("k",)) as server:
        asked = await server.client.options("/v1/rerank", headers=PREFLIGHT)
        assert asked.status_code == 200  # without a key, since browsers send none
        assert asked.headers["access-control-allow-origin"] == APP
        assert "authorization" in asked.headers["access-control-allow-headers"]
        refused = await server.client.post("/v1/rerank", json=BODY, headers={"Origin": APP})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP)
        headers = {"Origin": APP, "Authorization": "Bearer k", "Sec-Fetch-Site": "cross-site"}
        answer = await server.client.post("/v1/rerank", json=BODY, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, APP)
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


async def test_without_a_key_the_named_page_alone(serving: Callable[..., Any]) -> None:
    async with serving(allowed_origins=(APP,)) as server:
        site = {"Sec-Fetch-Site": "cross-site"}
        assert (await server.client.post("/v1/rerank", json=BODY, headers={"Origin": APP, **site})).status_code == 200
        other = {"Origin": "https://evil.example.com"}
        assert (await server.client.options("/v1/rerank", headers=PREFLIGHT | other)).status_code == 400
        answer = await server.client.post("/v1/rerank", json=BODY, headers=other | site)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


async def test_off_by_default(serving: Callable[..., Any]) -> None:
    async with serving() as server:
        assert (await server.client.options("/v1/rerank", headers=PREFLIGHT)).status_code in (403, 405)


async def test_head_and_hidden_pages(serving: Callable[..., Any]) -> None:
    async with serving(disable_fastapi_docs=True, api_key=("k",)) as server:
        for path in ("/health", "/ready", "/live"):
            assert (await server.client.head(path)).status_code == 200
        key = {"Authorization": "Bearer k"}
        assert (await server.client.head("/metrics", headers=key)).status_code == 200
        for path in ("/docs", "/openapi.json"):
            assert (await server.client.get(path, headers=key)).status_code == 404


async def test_auto_truncate_is_the_default_of_calls(serving: Callable[..., Any]) -> None:
    long = {"query": "a", "documents": ["word " * 5000]}
    async with serving(auto_truncate=False) as server:
        view = await server.client.post("/v1/rerank", json=long)
        assert view.status_code == 400
        assert (await server.client.post("/v1/rerank", json=long | {"truncate": True})).status_code == 200
        assert (await server.client.post("/rerank", json={"query": "a", "texts": ["word " * 5000]})).status_code == 422
        assert (await server.client.get("/info")).json()["auto_truncate"] is False


def test_keys_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    assert with_key_file(ServerConfig(api_key=("zero",), api_key_file=str(file))).api_key == ("zero", "one", "two")
    file.write_text("\n")
    with pytest.raises(ConfigError, match="no key in it"):
        with_key_file(ServerConfig(api_key_file=str(file)))
    with pytest.raises(ConfigError, match="No such file"):
        with_key_file(ServerConfig(api_key_file=str(tmp_path / "none")))
