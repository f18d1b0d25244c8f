"""Everything of ``engine run-batch`` but its flags: files in place, the model loaded, the run, the report."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.config import EngineConfig, ServerConfig
from engine.entrypoints.batch.output import Origin, OutputFile
from engine.entrypoints.batch.rows import check_ids
from engine.entrypoints.batch.runner import BatchReport, loaded_app, run_batch
from engine.entrypoints.batch.transfer import fetch, is_address, local_name, put
from engine.entrypoints.files.writing import check_writable, fingerprint
from engine.entrypoints.terminal import counted, tell
from engine.errors import ConfigError
from engine.ipc.private_folder import private_folder
from engine.ipc.stop_signals import stop_signals


@dataclass(frozen=True, slots=True)
class BatchFiles:
    """The files of a batch, as the user named them."""

    source: str
    target: str
    folder: Path | None
    """Where the output grows."""
    overwrite: bool = False
    """Replace an output file that exists."""


def work_through(engine_config: EngineConfig, server_config: ServerConfig, files: BatchFiles, window: int) -> int:
    with ExitStack() as stack:
        source = _source(files, stack)
        num_rows = check_ids(source)
        final, part = _target(files, stack)
        output = stack.enter_context(OutputFile(final, part, _origin(source, engine_config)))
        with asyncio.Runner() as runner:
            try:
                report = runner.run(_run(engine_config, server_config, source, output, window, num_rows))
            except asyncio.CancelledError:
                tell(f"stopped; the same command goes on where it stopped ({output.part})")
                return 130
        if is_address(files.target):
            put(final, files.target)
    return _say(report, files)


async def _run(
    engine_config: EngineConfig,
    server_config: ServerConfig,
    source: Path,
    output: OutputFile,
    window: int,
    num_rows: int,
) -> BatchReport:
    task = asyncio.current_task()
    assert task is not None
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with loaded_app(engine_config, server_config) as app:
        return await run_batch(app, source, output, window, num_rows)


def _source(files: BatchFiles, stack: ExitStack) -> Path:
    if is_address(files.source):
        folder = stack.enter_context(private_folder())
        fetch(files.source, folder / "input.jsonl")
        return folder / "input.jsonl"
    source = Path(files.source)
    if not source.is_file():
        raise ConfigError(f"--input-file {source}: there is no such file.", param="input")
    return source


def _target(files: BatchFiles, stack: ExitStack) -> tuple[Path, Path | None]:
    """Where the finished output lies on this machine, and where it grows (None: beside it)."""
    if files.folder is not None:
        files.folder.mkdir(parents=True, exist_ok=True)
    if is_address(files.target):
        folder = files.folder or stack.enter_context(private_folder())
        return local_name(files.target, folder), None
    final = Path(files.target)
    inputs = () if is_address(files.source) else (Path(files.source),)
    check_writable(final, overwrite=files.overwrite, inputs=inputs)
    return final, None if files.folder is None else files.folder / f"{final.name}.part"


def _origin(source: Path, config: EngineConfig) -> Origin:
    """What decides about the rows: the input's bytes, the model, and every setting of it."""
    settings = msgspec.json.decode(msgspec.json.encode(msgspec.to_builtins(config.model)))
    return Origin(fingerprint(source), settings.pop("model"), settings)


def _say(report: BatchReport, files: BatchFiles) -> int:
    earlier = f" ({report.num_resumed:,} of them by an earlier run)" if report.num_resumed else ""
    tell(f"{counted(report.num_rows, 'row')} answered{earlier} in {files.target}")
    if report.num_failed:
        tell(f"{counted(report.num_failed, 'row')} failed: the error in the answer says why")
    return 1 if report.num_failed else 0
