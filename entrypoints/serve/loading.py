"""From settings to a model that can be asked: files, tokenizer, core process, self-test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.checkpoint.resolve import resolve_model
from engine.config import EngineConfig
from engine.core.async_client import AsyncMPClient
from engine.core.replicas import ReplicaClient, start_client
from engine.entrypoints.inspection.self_test import SelfTest, run_self_test_async
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.inputs.processor import InputProcessor


async def load_engine(
    config: EngineConfig, on_started: Callable[[AsyncMPClient | ReplicaClient], object] | None = None
) -> LoadedEngine:
    """Loads a model: files, tokenizer, core process, self-test. It answers calls when this returns.

    ``on_started`` gets the client as soon as its core processes exist, so that the caller can end them meanwhile.
    Raises ``StartupError``; then nothing is left running.
    """
    spec = await asyncio.to_thread(resolve_model, config.model)
    processor = await asyncio.to_thread(InputProcessor, spec, config.model)
    client = await start_client(config, spec, processor.constant_prefix)
    if on_started is not None:
        on_started(client)
    try:
        trained = config.model.load_format != "dummy"
        await run_self_test_async(client, SelfTest(processor, spec, client.info.dtype, trained=trained))
    except BaseException:
        await client.shutdown(0.0)
        raise
    return LoadedEngine(spec, processor, client, config.model.served_model_name, tuple(config.model.lora_modules))
