"""The lives of API servers as the coordinator sees them, with handles that have no process behind them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.config import DeviceConfig, EngineConfig, ServerConfig
from engine.entrypoints.serve.admission import Admission, CallSize
from engine.entrypoints.serve.api_servers import coordinator as coordinator_module
from engine.entrypoints.serve.api_servers.messages import (
    AdaptersChanged,
    AdaptersKnown,
    AdmitRequest,
    Admitted,
    ApiServerFailed,
    ApiServerSetup,
    Attach,
    Attached,
    CallFailed,
    Connected,
    Count,
    MetricsPage,
    MetricsRequest,
    Operate,
    Operated,
    ResetPrefixCache,
    StateChange,
    Stop,
    ToApiServer,
)
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.operations import LoadLora, UnloadLora
from engine.entrypoints.serve.service import RerankService
from engine.errors import ConfigError, StartupError
from engine.messages import LoadAdapter, Sleep, UnloadAdapter, WireError
from tests.serve.fakes import SPEC, FakeCore, FakeProcessor


class FakeHandle:
    """Says and hears what an API server would; ``die`` is its end."""

    made: list[FakeHandle]

    def __init__(self, setup: Callable[[str], ApiServerSetup], on_message: Any, on_exit: Any) -> None:
        self.setup = setup("folder")
        self.index, self.pid = self.setup.index, 1000 + len(self.made)
        self.made.append(self)
        self.connected = self.attached = False
        self.gone = asyncio.Event()
        self.counts: list[Count] = []
        self.since_heartbeat_s = 0.0
        self.child = SimpleNamespace(exit_code=-9)
        self.heard: list[ToApiServer] = []
        self._on_message, self._on_exit = on_message, on_exit

    def say(self, message: Any) -> None:
        self.connected |= isinstance(message, Connected)
        self._on_message(self, message)

    def send(self, message: ToApiServer) -> None:
        self.heard.append(message)
        if isinstance(message, Stop):
            self.die()

    async def refresh(self) -> None:
        return

    def die(self) -> None:
        if not self.gone.is_set():
            self.connected = self.attached = False
            self.gone.set()
            self._on_exit(self)

    def kill(self) -> None:
        asyncio.get_running_loop().call_soon(self.die)

    def last(self, kind: type[Any]) -> Any:
        return [message for message in self.heard if isinstance(message, kind)][-1]


class RunningCoordinator:
    def __init__(
        self, coordinator: coordinator_module.Coordinator, service: RerankService, admission: Admission, folder: str
    ) -> None:
        """``folder``: from which adapters may be loaded."""
        self.coordinator, self.service, self.admission = coordinator, service, admission
        self.core = FakeCore()
        self.engine = LoadedEngine(SPEC, FakeProcessor(), self.core, ("fake",), lora_folders=(folder,))
        self.serving = asyncio.create_task(coordinator.serve())

    async def load(self) -> None:
        """Two API servers come, and get the model."""
        await asyncio.sleep(0)
        for handle in FakeHandle.made:
            handle.say(Connected())
        attaching = asyncio.create_task(self.coordinator.attach([self.engine]))
        await asyncio.sleep(0)
        for handle in FakeHandle.made:
            assert not attaching.done()
            assert handle.last(Attach).models[0].spec == SPEC
            handle.say(Attached())
        await attaching
        self.service.attach(self.engine)


@pytest.fixture
def handles(monkeypatch: pytest.MonkeyPatch) -> list[FakeHandle]:
    FakeHandle.made = []
    monkeypatch.setattr(coordinator_module, "ApiServerHandle", FakeHandle)
    monkeypatch.setattr(coordinator_module, "WATCH_S", 0.01)
    return FakeHandle.made


@asynccontextmanager
async def running(
    *, max_worker_restarts: int = 3, step_timeout_s: float = 300.0, folder: str = ""
) -> AsyncIterator[RunningCoordinator]:
    server = ServerConfig(api_server_count=2, max_queued_pairs=10, enable_sleep_mode=True)
    engine = EngineConfig(device=DeviceConfig(max_worker_restarts=max_worker_restarts, step_timeout_s=step_timeout_s))
    admission = Admission(server)
    service = RerankService(server, ServerMetrics(), admission)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        it = RunningCoordinator(
            coordinator_module.Coordinator(service, admission, [engine], listener), service, admission, folder
        )
        yield it
        it.coordinator.stop()
        await asyncio.wait((it.serving,))
        assert listener.fileno() == -1


async def test_a_lost_server_is_followed_by_one_that_waits_for_the_models(handles: list[FakeHandle]) -> None:
    async with running() as it:
        await it.load()
        assert not handles[0].setup.is_late
        handles[1].say(AdmitRequest("call", CallSize(4, 100, 100), "a"))
        handles[0].say(AdmitRequest("other", CallSize(4, 100, 100), "b"))
        assert handles[0].last(Admitted).call_id == "other"
        handles[1].counts = [Count("engine_pairs", "engine_pairs_total", {}, 5.0)]
        handles[1].die()
        assert it.admission.num_calls == 1, "its calls are gone, and only its"
        assert (handles[2].setup.index, handles[2].setup.is_late) == (1, True)
        handles[2].say(Connected())
        handles[2].say(Attached())
        handles[2].counts = [Count("engine_pairs", "engine_pairs_total", {}, 2.0)]
        handles[0].say(MetricsRequest(1))
        await asyncio.sleep(0.01)
        page = handles[0].last(MetricsPage).text.decode()
        for line in (
            "engine_pairs_total 7.0",
            "engine_api_servers 2.0",
            "engine_api_server_restarts_total 1.0",
            'engine_api_server_calls_total{api_server="1"} 1.0',
            "engine_running_calls 1.0",
            "engine_queued_pairs 4.0",
        ):
            assert line in page.splitlines()
        handles[0].die()
        assert it.admission.num_calls == 0
    await it.serving


async def test_losses_without_end_end_the_server(handles: list[FakeHandle]) -> None:
    async with running(max_worker_restarts=2) as it:
        await it.load()
        for _ in range(2):
            handles[-1].die()
        assert not it.serving.done()
        handles[-1].die()
        with pytest.raises(StartupError, match=r"API server 1 \(pid \d+\) ended with exit code -9, too often"):
            await it.serving
        assert all(handle.gone.is_set() for handle in handles)


async def test_what_no_server_could_do_ends_the_start(handles: list[FakeHandle]) -> None:
    async with running() as it:
        await asyncio.sleep(0)
        handles[0].say(Connected())
        handles[0].say(ApiServerFailed(WireError.of(ConfigError("No such dialect.", param="dialect"))))
        with pytest.raises(ConfigError, match="No such dialect"):
            await it.serving


async def test_a_failure_of_one_that_comes_later_is_a_loss_like_any_other(
    handles: list[FakeHandle], caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as it:
        await it.load()
        handles[0].say(ApiServerFailed(WireError.of(ConfigError("The tokenizer is gone."))))
        handles[0].die()
        assert not it.serving.done()
        assert "The tokenizer is gone." in caplog.text
        assert len(handles) == 3


async def test_a_server_that_says_nothing_is_killed(handles: list[FakeHandle]) -> None:
    async with running(step_timeout_s=0.05) as it:
        await it.load()
        async with asyncio.timeout(5):
            while len(handles) < 4:  # both
                await asyncio.sleep(0.01)
        assert handles[0].gone.is_set()


async def test_servers_hear_what_the_server_is_about(handles: list[FakeHandle]) -> None:
    async with running() as it:
        await it.load()
        it.service.state = "draining"
        it.coordinator.report_state()
        assert handles[0].last(StateChange) == handles[1].last(StateChange) == StateChange("draining", False, False)
        it.service.state = "refusing"
        handles[0].say(AdmitRequest("late", CallSize(1, 10, 10), "a"))
        assert handles[0].last(CallFailed).error.type == "shutting_down"
        it.service.stop_now()
        it.coordinator.stop_now()
        assert handles[1].last(StateChange) == StateChange("refusing", True, False)
        it.coordinator.stop()
        await it.serving
        assert handles[1].last(Stop) == Stop()


async def test_what_one_server_is_asked_for_all_of_them_know(handles: list[FakeHandle], tmp_path: Path) -> None:
    """The answer goes out when every server knows the adapter, or is gone; later ones get it with the model."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    async with running(folder=str(tmp_path)) as it:
        await it.load()
        handles[1].say(ResetPrefixCache(0))
        assert it.core.num_resets == 1
        handles[0].say(Operate(7, LoadLora("mine", "a")))
        await until(lambda: any(isinstance(message, AdaptersChanged) for message in handles[1].heard))
        (loaded,) = it.core.operations
        assert isinstance(loaded, LoadAdapter)
        told = [handle.last(AdaptersChanged) for handle in handles[:2]]
        assert [(one.model, one.adapters) for one in told] == [(0, {"mine": loaded.fingerprint})] * 2
        handles[0].say(AdaptersKnown(told[0].number))
        await asyncio.sleep(0.01)
        assert not any(isinstance(message, Operated) for message in handles[0].heard)
        handles[1].die()
        await until(lambda: any(isinstance(message, Operated) for message in handles[0].heard))
        assert handles[0].last(Operated) == Operated(7, None)
        handles[2].say(Connected())
        assert handles[2].last(Attach).models[0].adapters == {"mine": loaded.fingerprint}
        handles[2].say(Attached())

        handles[2].say(Operate(8, UnloadLora("mine")))
        await until(lambda: any(message.adapters == {} for message in changes(handles[2])))
        assert it.core.operations == [loaded], "a server may still have calls on it"
        for handle in (handles[0], handles[2]):
            handle.say(AdaptersKnown(handle.last(AdaptersChanged).number))
        await until(lambda: any(isinstance(message, Operated) for message in handles[2].heard))
        assert it.core.operations == [loaded, UnloadAdapter("mine")]

        handles[0].say(Operate(9, UnloadLora("mine")))
        await until(lambda: handles[0].last(Operated).number == 9)
        assert handles[0].last(Operated).error.type == "not_found_error"
        handles[0].say(Operate(10, Sleep()))
        await until(lambda: handles[0].last(Operated).number == 10)
        assert handles[2].last(StateChange).asleep
        handles[2].say(AdmitRequest("late", CallSize(1, 10, 10), "a"))
        assert handles[2].last(CallFailed).error.code == "asleep"


def changes(handle: FakeHandle) -> list[AdaptersChanged]:
    return [message for message in handle.heard if isinstance(message, AdaptersChanged)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
