"""A result file appears whole or not at all: it is written beside its place under ``NAME.part`` and then renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from engine.errors import ConfigError


def check_writable(
    path: Path, *, overwrite: bool = False, flag: str = "--overwrite", inputs: Sequence[Path] = ()
) -> None:
    """Before hours of work: the place for the result can take it; raises ``ConfigError``.

    A file that exists is somebody's work: it is replaced only where ``overwrite`` says so; ``flag`` is how users do.
    One of ``inputs`` is never replaced, under whatever name, and neither is a device, a pipe, or a link to nothing.
    """
    try:
        _check_place(path, inputs)
        _part(path).exists()  # raises where the name is too long for the disk, or the folder's files cannot be seen
        check_absent(path, overwrite=overwrite, flag=flag)
        _check_folder(path)
    except OSError as error:
        raise ConfigError(f"{str(path)[:200]} cannot be written: {error.strerror or error}.", param="output") from error


def _part(path: Path) -> Path:
    """Where a file is written before it is whole."""
    return path.with_name(f"{path.name}.part")


def _check_place(path: Path, inputs: Sequence[Path]) -> None:
    """Raises ``ConfigError`` for what no result replaces."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file for the result.")
    if any(path.exists() and other.exists() and path.samefile(other) for other in inputs):
        raise ConfigError(f"{path} is the input itself; name another file for the result.", param="output")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is a device or a pipe; name a file for the result.", param="output")
    if path.is_symlink() and not path.exists():
        raise ConfigError(f"{path} is a link that leads nowhere; name a file for the result.", param="output")


def _check_folder(path: Path) -> None:
    """Raises ``ConfigError`` where no file can be made beside the result."""
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {folder}.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written: no permission to write in {folder}.")


def check_absent(*paths: Path, overwrite: bool, flag: str = "--overwrite") -> None:
    """A file that exists is somebody's work. Raises ``ConfigError`` for one, unless ``overwrite`` says otherwise."""
    for path in paths:
        try:
            is_there = path.exists() and not path.is_dir()
        except OSError as error:
            raise ConfigError(
                f"{str(path)[:200]} cannot be written: {error.strerror or error}.", param="output"
            ) from error
        if is_there and not overwrite:
            raise ConfigError(f"{path} exists already. {flag} writes it anew; or name another file.", param="output")


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes: whether what an earlier run left belongs to the same input."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[TextIO]:
    """A file to write to; ``path`` is replaced when the block ends well, and left as it was otherwise.

    Raises ``ConfigError`` where it cannot be written.
    """
    part = _part(path)
    try:
        try:
            with part.open("w", encoding="utf-8", newline="\n") as file:
                yield file
            os.replace(part, path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
