"""The output file of a batch: it grows under a name of its own and gets the real one when it is complete.

A run that was interrupted leaves ``NAME.part`` and, beside it, ``NAME.part.json``, which says what it belongs to: the
next run goes on behind its last whole row if input, model and settings are the same, and refuses otherwise.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from engine.entrypoints.batch.rows import OutputRow
from engine.errors import ConfigError

_decoder = msgspec.json.Decoder(OutputRow)
_encoder = msgspec.json.Encoder()


class Origin(msgspec.Struct):
    """The requests and settings that an output belongs to; a run that differs must not go on with them."""

    input_sha256: str
    model: str
    settings: dict[str, Any]


class OutputFile:
    """Use as a context manager; rows are on disk, as far as the system is asked, when ``write`` returns."""

    def __init__(self, path: Path, part: Path | None = None, origin: Origin | None = None) -> None:
        """``part``: where it grows; ``origin``: what its rows answer, and with what (None: nobody asks)."""
        self.path = path
        self.part = part or path.with_name(f"{path.name}.part")
        self._origin_file = self.part.with_name(f"{self.part.name}.json")
        self._origin = origin
        self.done_ids: list[str | None] = []
        """Of the rows that an earlier run left."""
        self.num_failed = 0

    def __enter__(self) -> Self:
        """Open the file of answers. Raises ``ConfigError`` where it cannot be written, or another run writes it."""
        try:
            self._file = self.part.open("a+b")
        except OSError as error:
            raise ConfigError(f"--output-file {self.path}: {error.strerror}: {self.part}.", param="output") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigError(f"{self.part} is being written by another run.", param="output") from error
        try:
            self._check_origin()
        except BaseException:
            self._file.close()
            raise
        for row in self._whole_rows():
            self.done_ids.append(row.custom_id)
            self.num_failed += row.response.status_code != 200
        return self

    def _check_origin(self) -> None:
        """Raises ``ConfigError`` where what an earlier run left answers something else."""
        if self._origin is None:
            return
        if self._file.seek(0, os.SEEK_END) == 0:
            self._origin_file.write_bytes(_encoder.encode(self._origin))
            return
        try:
            found = msgspec.json.decode(self._origin_file.read_bytes(), type=Origin)
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(
                f"{self.part} exists, and nothing says which input it answers ({self._origin_file.name} is missing or "
                "damaged). Delete it to start anew, or name another output.",
                param="output",
            ) from error
        for name, what in (
            ("input_sha256", "another input"),
            ("model", "another model"),
            ("settings", "other settings"),
        ):
            if getattr(found, name) != getattr(self._origin, name):
                raise ConfigError(
                    f"{self.part} does not belong to this run: it was begun with {what}. Delete it to start "
                    "anew, or name another output.",
                    param="output",
                )

    def _whole_rows(self) -> Iterator[OutputRow]:
        """The rows that are complete; what follows them was cut off in the middle, and goes."""
        self._file.seek(0)
        end = 0
        for line in self._file:
            try:
                row = _decoder.decode(line)
            except msgspec.DecodeError:
                break
            if not line.endswith(b"\n"):
                break
            end += len(line)
            yield row
        self._file.truncate(end)
        self._file.seek(end)

    def write(self, row: OutputRow) -> None:
        """Raises ``ConfigError`` where the disk does not take it; the rows before it stay."""
        with self._disk_errors():
            self._file.write(_encoder.encode(row) + b"\n")
            self._file.flush()
        self.num_failed += row.response.status_code != 200

    def finish(self) -> None:
        """All rows are there."""
        with self._disk_errors():
            os.fsync(self._file.fileno())
            self.part.replace(self.path)
        self._origin_file.unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigError(
                f"{self.part} cannot be written: {error.strerror or error}. The same command goes on behind its last "
                "whole row.",
                param="output",
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what the disk did not take was reported when it was written
            self._file.close()
