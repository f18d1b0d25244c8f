"""Adapters that come and go, and sleep: who may ask for it, in whose words, and what calls see meanwhile."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.config import ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from engine.errors import EngineDeadError, ModelLoadError
from engine.messages import LoadAdapter, Sleep, UnloadAdapter, WakeUp
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor

BODY = {"query": "q", "documents": ["a b", "c"]}


@dataclass
class Running:
    client: httpx.AsyncClient
    core: FakeCore
    service: RerankService
    folder: Path

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        return await self.client.post(path, json=body)


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"12345678")
    return folder


@asynccontextmanager
async def running(
    folder: Path, *, may_load: bool = True, core: FakeCore | None = None, **settings: Any
) -> AsyncIterator[Running]:
    core = core or FakeCore()
    service = RerankService(ServerConfig(**{"enable_sleep_mode": True, **settings}), ServerMetrics())
    folders = (str(folder),) if may_load else ()
    service.attach(LoadedEngine(SPEC, FakeProcessor(), core, ("fake",), {"first": ""}, folders))
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Running(client, core, service, folder)
    await service.stop()


async def test_vllms_words(tmp_path: Path) -> None:
    path = adapter(tmp_path / "a")
    async with running(tmp_path) as server:
        load = {"lora_name": "mine", "lora_path": str(path)}
        answer = await server.post("/v1/load_lora_adapter", load)
        assert (answer.status_code, answer.text) == (200, "Success: LoRA adapter 'mine' added successfully.")
        (done,) = server.core.operations
        assert isinstance(done, LoadAdapter)
        assert (done.name, done.folder, len(done.fingerprint)) == ("mine", str(path), 16)
        assert (await server.post("/v1/rerank", BODY | {"model": "mine"})).status_code == 200
        assert server.core.requests[-1].adapter == "mine"
        cards = (await server.client.get("/v1/models")).json()["data"]
        assert [(card["id"], card["parent"]) for card in cards] == [("fake", None), ("first", "fake"), ("mine", "fake")]
        assert cards[2]["fingerprint"] == done.fingerprint

        again = await server.post("/v1/load_lora_adapter", load)
        assert again.status_code == 400
        assert "has already been loaded" in again.json()["error"]["message"]
        assert (await server.post("/v1/load_lora_adapter", load | {"load_inplace": True})).status_code == 200

        gone = await server.post("/v1/unload_lora_adapter", {"lora_name": "mine"})
        assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'mine' removed successfully.")
        assert server.core.operations[-1] == UnloadAdapter("mine")
        assert (await server.post("/v1/rerank", BODY | {"model": "mine"})).status_code == 404
        missing = await server.post("/v1/unload_lora_adapter", {"lora_name": "mine"})
        assert (missing.status_code, missing.json()["error"]["message"]) == (
            404,
            "The lora adapter 'mine' cannot be found.",
        )


async def test_sglangs_words(tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    async with running(tmp_path) as server:
        answer = await server.post("/load_lora_adapter", {"lora_name": "mine", "lora_path": "a", "pinned": True})
        assert answer.json()["success"] is True
        assert list(answer.json()["loaded_adapters"]) == ["first", "mine"]
        again = await server.post("/load_lora_adapter", {"lora_name": "mine", "lora_path": "a"})
        assert (again.status_code, again.json()["success"]) == (400, False)
        assert "has already been loaded" in again.json()["error_message"]
        gone = await server.post("/unload_lora_adapter", {"lora_name": "first"})
        assert list(gone.json()["loaded_adapters"]) == ["mine"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"lora_name": "mine"}, 400, "Both 'lora_name' and 'lora_path' must be provided."),
        ({"lora_name": "", "lora_path": "a"}, 400, "Both"),
        ({"lora_name": "mine", "lora_path": "nothing"}, 404, "nothing is downloaded"),
        ({"lora_name": "mine", "lora_path": "org/name"}, 404, "nothing is downloaded"),
        ({"lora_name": "mine", "lora_path": "/etc"}, 403, "none of the folders"),
        ({"lora_name": "mine", "lora_path": "../outside"}, 404, "There is no adapter"),
        ({"lora_name": "mine", "lora_path": "linked"}, 404, "There is no adapter"),
        ({"lora_name": "mine", "lora_path": "leaking"}, 403, "adapter_model.safetensors in lora_path is no file"),
        ({"lora_name": "mine", "lora_path": "a\0b"}, 400, "no path"),
        ({"lora_name": "mine", "lora_path": "crowded"}, 400, "an adapter has few"),
        ({"lora_name": "fake", "lora_path": "a"}, 400, "conflicts with a served model"),
        ({"lora_name": "n" * 201, "lora_path": "a"}, 400, "at most 200"),
        ({"lora_name": "a\nb", "lora_path": "a"}, 400, "printable"),
        ({"lora_name": "mine", "lora_path": "a", "base_model_name": "other"}, 404, "does not exist"),
        ({"lora_name": 7, "lora_path": "a"}, 400, "lora_name"),
        ([], 400, "cannot be read"),
    ],
)
async def test_what_is_refused(tmp_path: Path, body: Any, status: int, says: str) -> None:
    """Nothing reaches the core, and a refusal does not tell what there is outside of the allowed folders."""
    allowed = tmp_path / "allowed"
    adapter(allowed / "a")
    outside = adapter(tmp_path / "outside")
    (allowed / "linked").symlink_to(outside)
    leaking = adapter(allowed / "leaking")
    (leaking / "adapter_model.safetensors").unlink()
    (leaking / "adapter_model.safetensors").symlink_to("/etc/passwd")
    for number in range(70):
        ((adapter(allowed / "crowded") if not number else allowed / "crowded") / f"{number}.json").write_text("{}")
    async with running(allowed) as server:
        answer = await server.post("/v1/load_lora_adapter", body)
        assert answer.status_code == status, answer.text
        assert says in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text
        assert not server.core.operations
        assert "mine" not in server.service.models.names


async def test_only_where_the_operator_allowed_it(tmp_path: Path) -> None:
    adapter(tmp_path / "a")
    async with running(tmp_path, may_load=False, enable_sleep_mode=False) as server:
        for path, body, flag in (
            ("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": "a"}, "--runtime-lora-folders"),
            ("/v1/unload_lora_adapter", {"lora_name": "first"}, "--runtime-lora-folders"),
            ("/sleep", None, "--enable-sleep-mode"),
            ("/wake_up", None, "--enable-sleep-mode"),
            ("/release_memory_occupation", {}, "--enable-sleep-mode"),
        ):
            answer = await server.post(path, body)
            assert answer.status_code == 403
            assert flag in answer.json()["error"]["message"]
        assert not server.core.operations
    async with running(tmp_path, api_key=("secret",)) as server:
        for path in ("/v1/load_lora_adapter", "/unload_lora_adapter", "/sleep", "/wake_up"):
            assert (await server.post(path, {"lora_name": "first", "lora_path": "a"})).status_code == 401
        assert not server.core.operations


async def test_a_damaged_adapter_is_the_callers_mistake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter(tmp_path / "a")
    async with running(tmp_path) as server:
        server.core.refusal = ModelLoadError(f"the adapter 'mine' in {tmp_path}/a does not fit the model: 3 x 4")
        with caplog.at_level(logging.WARNING):
            answer = await server.post("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": "a"})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == (
            "The adapter was not loaded: the adapter 'mine' in (a path) does not fit the model: 3 x 4."
        )
        assert f"{tmp_path}/a" in caplog.text
        assert "mine" not in server.service.models.names
        server.core.refusal = EngineDeadError("the engine core is not there now", retry_after_s=5)
        answer = await server.post("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": "a"})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        answer = await server.post("/v1/unload_lora_adapter", {"lora_name": "first"})
        assert answer.status_code == 503
        assert "first" in server.service.models.names


async def test_calls_in_flight_keep_their_adapter(tmp_path: Path) -> None:
    async with running(tmp_path, core=FakeCore(pairs_per_step=1, step_s=0.05)) as server:
        call = asyncio.create_task(server.post("/v1/rerank", BODY | {"model": "first"}))
        while not server.core.requests:
            await asyncio.sleep(0.005)
        unload = asyncio.create_task(server.post("/v1/unload_lora_adapter", {"lora_name": "first"}))
        await asyncio.sleep(0.01)
        assert (await server.post("/v1/rerank", BODY | {"model": "first"})).status_code == 404
        assert not server.core.operations
        assert (await call).status_code == 200
        assert (await unload).status_code == 200
        assert server.core.operations == [UnloadAdapter("first")]


@pytest.mark.parametrize(
    ("sleep", "wake"),
    [("/sleep?level=1", "/wake_up?tags=weights"), ("/release_memory_occupation", "/resume_memory_occupation")],
)
async def test_sleep(tmp_path: Path, sleep: str, wake: str) -> None:
    """It waits for calls in flight; further ones are told when to come back."""
    async with running(tmp_path, core=FakeCore(pairs_per_step=1, step_s=0.05)) as server:
        call = asyncio.create_task(server.post("/v1/rerank", BODY))
        while not server.core.requests:
            await asyncio.sleep(0.005)
        asleep = asyncio.create_task(server.client.post(sleep))
        await asyncio.sleep(0.01)
        refused = await server.post("/v1/rerank", BODY)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert "call its route wake_up (POST) first" in refused.json()["error"]["message"]
        assert not server.core.operations
        assert (await call).status_code == 200
        assert ((await asleep).status_code, server.core.operations) == (200, [Sleep()])
        assert (await server.client.post(sleep)).status_code == 200
        assert (await server.client.get("/is_sleeping")).json() == {"is_sleeping": True}
        assert [(await server.client.get(path)).status_code for path in ("/ready", "/v2/health/ready", "/live")] == [
            503,
            503,
            200,
        ]
        assert (await server.post("/v1/load_lora_adapter", {"lora_name": "m", "lora_path": "a"})).status_code == 503
        assert (await server.post(wake)).status_code == 200
        assert server.core.operations == [Sleep(), WakeUp()]
        assert (await server.post("/v1/rerank", BODY)).status_code == 200
        assert (await server.client.get("/is_sleeping")).json() == {"is_sleeping": False}


async def test_a_model_that_cannot_wake_up(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        assert (await server.post("/sleep?level=0")).status_code == 400
        await server.post("/sleep")
        server.core.refusal = ModelLoadError("the files of m are no longer those that were served")
        answer = await server.post("/wake_up")
        assert answer.status_code == 503
        assert "the log of the server says why" in answer.json()["error"]["message"]
        assert (await server.post("/v1/rerank", BODY)).status_code == 503
        server.core.refusal = None
        assert (await server.post("/wake_up")).status_code == 200
        assert (await server.post("/v1/rerank", BODY)).status_code == 200


def test_vllms_environment() -> None:
    from engine.entrypoints.cli.peer_arguments import PeerArguments
    from engine.entrypoints.cli.peer_environment import peer_environment

    told: list[str] = []
    peers = PeerArguments(frozenset({"--runtime-lora-folders"}), told.append, {})
    allowed = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    assert peer_environment(peers, allowed) == {}
    assert "--runtime-lora-folders" in told[-1]
    folders = allowed | {"VLLM_RUNTIME_LORA_ALLOWED_PATH_PREFIXES": "/a:/b"}
    assert peer_environment(peers, folders) == {"runtime-lora-folders": ["/a", "/b"]}
    assert json.dumps(peer_environment(peers, {"VLLM_RUNTIME_LORA_ALLOWED_PATH_PREFIXES": "/a"})) == "{}"
