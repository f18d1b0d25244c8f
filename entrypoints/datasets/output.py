"""A result that grows in the background and appears at once.

Finished windows go to ``OUT.parts/``, each written whole and renamed into place, beside ``state.json`` which says what
they belong to. A run that was killed finds them and goes on behind them. When the last window is there, the parts are
joined in order into ``OUT.part``, which is renamed to ``OUT``; only then are the parts removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec

from engine.entrypoints.datasets.rows import parquet_module
from engine.errors import ConfigError


class State(msgspec.Struct):
    """The input and settings that the parts belong to; a run that differs must not go on with them."""

    source: str
    source_sha256: str
    model: str
    settings: dict[str, Any]


class PartFiles:
    """Parts are JSON lines whatever the final form, named by the row they begin with."""

    def __init__(self, output: Path, state: State, *, restart: bool) -> None:
        self._output = output
        self._folder = output.with_name(f"{output.name}.parts")
        if restart:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(exist_ok=True)
        self._check(state)

    def _check(self, state: State) -> None:
        file = self._folder / "state.json"
        if not file.exists():
            self._write(file, msgspec.json.encode(state))
            return
        try:
            found = msgspec.json.decode(file.read_bytes(), type=State)
        except msgspec.DecodeError:
            raise ConfigError(f"{file} is damaged; --restart begins anew.") from None
        for name in State.__struct_fields__:
            if getattr(found, name) != getattr(state, name):
                raise ConfigError(
                    f"{self._folder} holds a run with another {name.replace('_', ' ')} ({getattr(found, name)!r}, now "
                    f"{getattr(state, name)!r}). --restart begins anew."
                )

    def parts(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def num_rows_done(self) -> int:
        """Rows in the unbroken run of parts from the start; what lies behind a gap is dropped."""
        done = 0
        for part in self.parts():
            if int(part.stem) != done:
                part.unlink()
                continue
            with part.open("rb") as file:
                done += sum(1 for _ in file)
        return done

    def add(self, first_row: int, lines: bytes) -> None:
        self._write(self._folder / f"{first_row:012d}.jsonl", lines)

    def finish(self) -> None:
        """Join the parts to the final file. Raises ``ConfigError`` where that cannot be written; the parts stay."""
        part = self._output.with_name(f"{self._output.name}.part")
        try:
            if self._output.suffix == ".parquet":
                self._join_parquet(part)
            else:
                self._join_lines(part)
            part.replace(self._output)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise ConfigError(
                f"{self._output} cannot be written: {error.strerror or error}. What was finished is kept in "
                f"{self._folder}."
            ) from error
        shutil.rmtree(self._folder)

    def _join_lines(self, target: Path) -> None:
        with target.open("wb") as joined:
            for piece in self.parts():
                with piece.open("rb") as file:
                    shutil.copyfileobj(file, joined)

    def _join_parquet(self, target: Path) -> None:
        """One row group a part. All parts get the schema of the whole, read in a first pass over the parts."""
        parquet = parquet_module()
        import pyarrow

        tables = [pyarrow.Table.from_pylist(_rows(part)[:1000]).schema for part in self.parts()]
        schema = pyarrow.unify_schemas(tables, promote_options="permissive") if tables else pyarrow.schema([])
        with parquet.ParquetWriter(target, schema) as writer:
            for part in self.parts():
                writer.write_table(pyarrow.Table.from_pylist(_rows(part), schema=schema))

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        try:
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}. What was finished is kept.") from error


def _rows(part: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in part.read_bytes().splitlines()]
