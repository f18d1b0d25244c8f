"""The output file of a batch: it grows under a name of its own and gets the real one when it is complete.

A run that was interrupted leaves ``NAME.part``; the next one goes on behind its last whole row, after a look whether
those rows belong to the same input.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from engine.entrypoints.batch.rows import OutputRow
from engine.errors import ConfigError

_decoder = msgspec.json.Decoder(OutputRow)
_encoder = msgspec.json.Encoder()


class OutputFile:
    """Use as a context manager; rows are on disk, as far as the system is asked, when ``write`` returns."""

    def __init__(self, path: Path, part: Path | None = None) -> None:
        self.path = path
        self.part = part or path.with_name(f"{path.name}.part")
        self.done_ids: list[str | None] = []
        """Of the rows that an earlier run left."""
        self.num_failed = 0

    def __enter__(self) -> Self:
        try:
            self._file = self.part.open("a+b")
        except OSError as error:
            raise ConfigError(f"--output-file {self.path}: {error.strerror}: {self.part}.", param="output") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ConfigError(f"{self.part} is being written by another run.", param="output") from error
        for row in self._whole_rows():
            self.done_ids.append(row.custom_id)
            self.num_failed += row.response.status_code != 200
        return self

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
        self._file.write(_encoder.encode(row) + b"\n")
        self._file.flush()
        self.num_failed += row.response.status_code != 200

    def finish(self) -> None:
        """All rows are there."""
        os.fsync(self._file.fileno())
        self.part.replace(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
