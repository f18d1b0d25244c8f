"""From settings to a model that can be asked: files, tokenizer, core process, self-test."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from engine.checkpoint.hub import check_local
from engine.checkpoint.resolve import resolve_model
from engine.config import EngineConfig
from engine.core.async_client import AsyncMPClient
from engine.core.replicas import ReplicaClient, start_client
from engine.entrypoints.inspection.self_test import SelfTest, run_self_test_async
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.inputs.processor import InputProcessor
from engine.scoring.document_store import document_store

T = TypeVar("T")


async def _in_daemon_thread(function: Callable[..., T], *args: object) -> T:
    """``function(*args)`` in a thread that nobody waits for when the process ends: a download cannot be interrupted."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(say: Callable[[Any], None], what: object) -> None:
        if not done.done():  # else whoever waited has left
            say(what)

    def run() -> None:
        say: Callable[[Any], None] = done.set_result
        try:
            what: object = function(*args)
        except BaseException as error:
            say, what = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, say, what)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await done


def check_model_path(config: EngineConfig) -> None:
    """Raises ``StartupError`` for a path without a model, which costs no time to see: before a server listens."""
    check_local(config.model.model)


async def load_engine(
    config: EngineConfig, on_started: Callable[[AsyncMPClient | ReplicaClient], object] | None = None
) -> LoadedEngine:
    """Loads a model: files, tokenizer, core process, self-test. It answers calls when this returns.

    ``on_started`` gets the client as soon as its core processes exist, so that the caller can end them meanwhile.
    Raises ``StartupError``; then nothing is left running.
    """
    spec = await _in_daemon_thread(resolve_model, config.model)
    processor = await _in_daemon_thread(InputProcessor, spec, config.model)
    document_store(spec, config.model.document_store_bytes)  # refused, where it is, before weights are read
    client = await start_client(config, spec, processor.constant_prefix)
    if on_started is not None:
        on_started(client)
    try:
        trained = config.model.load_format != "dummy"
        await run_self_test_async(client, SelfTest(processor, spec, client.info.dtype, trained=trained))
    except BaseException:
        await client.shutdown(0.0)
        raise
    return LoadedEngine.of(spec, processor, client, config.model)
