"""What callers may change while the server runs, where its operator allowed it: LoRA adapters, sleep and waking up.

``ServerOperations`` does it in the process that owns the models. With several API servers that is the coordinator,
which they ask (``api_servers/remote.py``); what has changed it ``announce``s to them before it answers, so
that a new name is known to all of them once a caller has been told of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec

from engine.checkpoint.fingerprint import fingerprint
from engine.entrypoints.serve.errors import redacted
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.service import RerankService
from engine.errors import EngineError, ForbiddenError, InvalidRequestError, NotFoundError, ServiceError
from engine.messages import LoadAdapter, Sleep, UnloadAdapter, WakeUp

logger = logging.getLogger(__name__)
MAX_ADAPTERS = 256
"""Of one model: each takes memory on the device."""
MAX_FILES = 64
MAX_NAME = 200
FILES = ("*.json", "*.safetensors")
"""What is read of an adapter's folder."""


class LoadLora(msgspec.Struct, array_like=True, gc=False, tag="load_lora"):
    """Serve an adapter under a name."""

    name: str
    path: str
    in_place: bool = False
    """It may take the place of one of the same name."""
    model: str | None = None
    """The model that it belongs to; None: the first one."""


class UnloadLora(msgspec.Struct, array_like=True, gc=False, tag="unload_lora"):
    """Serve an adapter no more."""

    name: str


ServerOperation = LoadLora | UnloadLora | Sleep | WakeUp


class OperationsControl(Protocol):
    """The one that carries out the operations that callers ask for."""

    async def perform(self, operation: ServerOperation) -> None:
        """Returns when it is done everywhere. Raises ``EngineError``; then nothing has changed."""
        ...


async def _to_nobody(engine: LoadedEngine | None) -> None:
    """There is one process only."""


class ServerOperations:
    """Does what callers ask for, one after the other, on the models of this process."""

    def __init__(
        self, service: RerankService, announce: Callable[[LoadedEngine | None], Awaitable[None]] = _to_nobody
    ) -> None:
        """``announce`` tells other processes that the adapters of a model, or with None the state of the server, have
        changed; it returns once they know, and have no calls left on an adapter that was taken away."""
        self._service, self._announce = service, announce
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def perform(self, operation: ServerOperation) -> None:
        """Goes on to its end even where the caller leaves. Raises ``EngineError``."""
        task = asyncio.create_task(self._perform(operation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _perform(self, operation: ServerOperation) -> None:
        async with self._lock:
            match operation:
                case LoadLora():
                    self._service.check_accepting()
                    await self._load(operation)
                case UnloadLora(name):
                    await self._unload(name)
                case Sleep():
                    await self._sleep()
                case WakeUp():
                    await self._wake_up()

    # -- adapters -----------------------------------------------------------------------------------------------------

    async def _load(self, wanted: LoadLora) -> None:
        models = self._service.models
        engine, name = models.choose(wanted.model).engine, wanted.name
        _check_allowed(engine)
        if len(name) > MAX_NAME or not name.isprintable():
            raise InvalidRequestError(f"lora_name has at most {MAX_NAME} printable characters.", param="lora_name")
        if name not in engine.adapters and name in models.names:
            raise InvalidRequestError(
                f"The lora adapter name '{name}' conflicts with a served model.", param="lora_name"
            )
        if name in engine.adapters and not wanted.in_place:
            raise InvalidRequestError(
                f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set "
                "'load_inplace' to True.",
                param="lora_name",
            )
        if len(engine.adapters) >= MAX_ADAPTERS and name not in engine.adapters:
            raise InvalidRequestError(f"{MAX_ADAPTERS} adapters are loaded, which is the most: unload one first.")
        folder = await asyncio.to_thread(find_adapter, wanted.path, engine.lora_folders)
        mark = await asyncio.to_thread(fingerprint, [str(folder)])
        try:
            await engine.client.operate(LoadAdapter(name, str(folder), mark))
        except ServiceError:
            raise
        except EngineError as error:
            logger.warning("the adapter %r was not loaded: %s", name, error)
            raise InvalidRequestError(
                f"The adapter was not loaded: {redacted(str(error))}.", param="lora_path"
            ) from error
        logger.info("the adapter %r is served from %s (fingerprint %s)", name, folder, mark)
        models.put_adapter(engine, name, mark)
        await self._announce(engine)

    async def _unload(self, name: str) -> None:
        models = self._service.models
        engine = models.owner_of_adapter(name)
        if engine is None:
            _check_allowed(models.default)
            raise NotFoundError(f"The lora adapter '{name[:MAX_NAME]}' cannot be found.", param="lora_name")
        _check_allowed(engine)
        mark = engine.adapters[name]
        models.drop_adapter(name)
        await self._announce(engine)
        await models.unused(name)
        try:
            await engine.client.operate(UnloadAdapter(name))
        except EngineError:
            models.put_adapter(engine, name, mark)
            await self._announce(engine)
            raise
        logger.info("the adapter %r is served no more", name)

    # -- sleep --------------------------------------------------------------------------------------------------------

    async def _sleep(self) -> None:
        self._check_may_sleep()
        service = self._service
        if service.asleep:
            return
        _ = service.engine  # or 503
        service.asleep = True
        await self._announce(None)
        await service.admission.idle.wait()
        try:
            for engine in service.models:
                await engine.client.operate(Sleep())
        except EngineError:
            await self._wake_all()
            raise
        logger.info("asleep: the memory of the weights was given back")

    async def _wake_up(self) -> None:
        self._check_may_sleep()
        if self._service.asleep:
            await self._wake_all()
            logger.info("awake again")

    async def _wake_all(self) -> None:
        for engine in self._service.models:
            try:
                await engine.client.operate(WakeUp())
            except ServiceError:
                raise
            except EngineError as error:  # what stops a start is hidden from callers, and the log has it
                logger.error("%s cannot wake up: %s", engine.names[0], error)
                raise
        self._service.asleep = False
        await self._announce(None)

    def _check_may_sleep(self) -> None:
        if not self._service.config.enable_sleep_mode:
            raise ForbiddenError("This server was started without --enable-sleep-mode: it does not sleep.")


def _check_allowed(engine: LoadedEngine) -> None:
    if not engine.lora_folders:
        raise ForbiddenError(
            "This server was started without --runtime-lora-folders: its adapters change only with a restart."
        )


def find_adapter(path: str, allowed: tuple[str, ...]) -> Path:
    """The folder of an adapter that callers may load: absolute, or relative to one of the ``allowed`` folders.

    Raises ``InvalidRequestError`` and ``NotFoundError``, which do not tell what there is outside of them.
    """
    roots = [Path(root).expanduser().resolve() for root in allowed]
    if "\0" in path or len(path) > 4096:
        raise InvalidRequestError("lora_path is no path.", param="lora_path")
    for root in roots:
        folder = (root / path).resolve()
        if not _is_within(folder, roots):
            continue
        if (folder / "adapter_config.json").is_file():
            _check_files(folder, roots)
            return folder
    if Path(path).is_absolute() and not _is_within(Path(path).resolve(), roots):
        raise ForbiddenError("lora_path is in none of the folders of --runtime-lora-folders.", param="lora_path")
    raise NotFoundError(
        "There is no adapter (a folder with adapter_config.json) under lora_path in the folders of "
        "--runtime-lora-folders; nothing is downloaded.",
        param="lora_path",
    )


def _is_within(path: Path, roots: list[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _check_files(folder: Path, roots: list[Path]) -> None:
    """A link may lead to another file of the allowed folders (as in a cache of the hub), and nowhere else."""
    files = [file for pattern in FILES for file in folder.glob(pattern)]
    if len(files) > MAX_FILES:
        raise InvalidRequestError(f"lora_path has {len(files)} files; an adapter has few.", param="lora_path")
    for file in files:
        real = file.resolve()
        if not (_is_within(real, roots) and real.is_file()):
            raise ForbiddenError(
                f"{file.name} in lora_path is no file in the folders of --runtime-lora-folders.", param="lora_path"
            )
