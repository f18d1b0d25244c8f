"""HTTPS and Unix sockets: real sockets around the fake core, and certificates that change while the server runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from engine.config import ServerConfig
from engine.entrypoints.serve import tls
from engine.entrypoints.serve.api_servers.listener import ConnectionCounts, SharingHttpServer
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.auth import check_exposure
from engine.entrypoints.serve.http import HttpServer, http_server
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.ports import address_of, listen, listen_on_path
from engine.entrypoints.serve.service import RerankService
from engine.errors import ConfigError
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor, expected_score

BODY = {"query": "a", "documents": ["b"]}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_pair(authority: trustme.CA, folder: Path) -> dict[str, str]:
    made = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made.private_key_pem.write_to_path(str(key))
    cert.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    return {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}


def trusting(authority: trustme.CA, client: trustme.LeafCert | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.configure_cert(context)
    return context


@asynccontextmanager
async def listening(listener: socket.socket, *, shared: bool = False, **settings: Any) -> AsyncIterator[str]:
    config = ServerConfig(**settings)
    tls.check_tls(config)
    service = RerankService(config, ServerMetrics())
    service.attach(LoadedEngine(SPEC, FakeProcessor(), FakeCore(), ("fake",)))
    app = create_app(service)
    http: HttpServer = http_server(app, config)
    if shared:
        http = SharingHttpServer(app, config, ConnectionCounts.create(1), 0)
    serving = asyncio.create_task(http.serve(sockets=[listener]))
    while not http.started:
        await asyncio.sleep(0.01)
    try:
        yield address_of(listener, tls=config.ssl_certfile is not None)
    finally:
        http.should_exit = True
        await serving
        await service.stop()
        listener.close()


async def rerank(url: str, **settings: Any) -> float:
    async with httpx.AsyncClient(**settings) as client:
        answer = await client.post(f"{url}/v1/rerank", json=BODY)
    assert answer.status_code == 200
    score: float = answer.json()["results"][0]["relevance_score"]
    return score


@pytest.mark.parametrize("shared", [False, True])
async def test_https(authority: trustme.CA, tmp_path: Path, shared: bool) -> None:
    async with listening(listen("127.0.0.1", 0), shared=shared, **write_pair(authority, tmp_path)) as url:
        assert url.startswith("https://127.0.0.1:")
        assert await rerank(url, verify=trusting(authority)) == pytest.approx(expected_score("a", "b"))
        with pytest.raises(httpx.ConnectError):
            await rerank(url, verify=trusting(trustme.CA()))


async def test_what_is_no_http_is_answered_under_tls(authority: trustme.CA, tmp_path: Path) -> None:
    async with listening(listen("127.0.0.1", 0), **write_pair(authority, tmp_path)) as url:
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting(authority))
        writer.write(b"nonsense\r\n\r\n")
        assert b"invalid_http" in await asyncio.wait_for(reader.read(), 10)
        writer.close()


async def test_a_changed_certificate_is_served(
    authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "TICKS_BETWEEN_CHECKS", 1)
    async with listening(listen("127.0.0.1", 0), **write_pair(authority, tmp_path)) as url:
        await rerank(url, verify=trusting(authority))
        (tmp_path / "cert.pem").write_text("half written")
        await asyncio.sleep(0.3)
        await rerank(url, verify=trusting(authority))
        newer = trustme.CA()
        write_pair(newer, tmp_path)
        for _ in range(100):
            try:
                await rerank(url, verify=trusting(newer))
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.1)
        else:
            pytest.fail("the new certificate is not served")


async def test_certificates_of_clients(authority: trustme.CA, tmp_path: Path) -> None:
    clients = trustme.CA()
    authorities = tmp_path / "clients.pem"
    clients.cert_pem.write_to_path(str(authorities))
    settings = {**write_pair(authority, tmp_path), "ssl_ca_certs": str(authorities), "ssl_cert_reqs": 2}
    async with listening(listen("127.0.0.1", 0), **settings) as url:
        await rerank(url, verify=trusting(authority, clients.issue_cert("someone")))
        with pytest.raises(httpx.TransportError):
            await rerank(url, verify=trusting(authority))


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    async with listening(listen_on_path(path), uds=path) as address:
        assert address == f"unix:{path}"
        transport = httpx.AsyncHTTPTransport(uds=path)
        assert await rerank("http://any.name", transport=transport) == pytest.approx(expected_score("a", "b"))
        with pytest.raises(ConfigError, match="another process listens"):
            listen_on_path(path)
    listen_on_path(path).close()  # what a killed server left is replaced
    check_exposure(ServerConfig(host="0.0.0.0", uds=path))


def test_what_does_not_fit_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    pair = write_pair(authority, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    strange_key = write_pair(authority, other)["ssl_keyfile"]
    for settings, says in (
        ({"ssl_keyfile": pair["ssl_keyfile"]}, "without --ssl-certfile"),
        ({**pair, "ssl_keyfile": strange_key}, "KEY_VALUES_MISMATCH"),
        ({"ssl_certfile": str(tmp_path / "none.pem")}, "no such file"),
        ({"ssl_certfile": pair["ssl_certfile"]}, "PEM files"),
        ({**pair, "ssl_cert_reqs": 2}, "--ssl-ca-certs"),
        ({"ssl_cert_reqs": 1}, "without --ssl-certfile"),
        ({**pair, "ssl_ciphers": "NONSENSE"}, "ssl-certfile"),
    ):
        with pytest.raises(ConfigError, match=says):
            tls.check_tls(ServerConfig(**settings))
