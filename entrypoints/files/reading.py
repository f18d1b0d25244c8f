"""Text files and JSON lines as streams; whatever is wrong ends in one sentence with file and line.

``-`` is standard input. A name ending in ``.gz`` is unpacked on the way.
"""

from __future__ import annotations

import codecs
import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any

import msgspec

from engine.errors import ConfigError

STANDARD_INPUT = "-"
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
"""How files begin that are no text."""

Row = dict[str, Any]


def shown_name(path: str | Path) -> str:
    return "standard input" if str(path) == STANDARD_INPUT else printable_name(path)


def printable_name(path: str | Path) -> str:
    """A file's name may be bytes that are no text."""
    return os.fsencode(path).decode("utf-8", "replace")


def wrong_line(path: str | Path, number: int, problem: str) -> ConfigError:
    return ConfigError(f"{shown_name(path)}:{number}: {problem}")


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line without its end) of a UTF-8 file; only newlines end a line."""
    for number, line in byte_lines(path):
        try:
            yield number, line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 text (byte 0x{line[error.start]:02x} at position {error.start + 1} of the line)."
            raise wrong_line(path, number, problem) from None


def json_rows(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of a file with one JSON value a line; blank lines are passed over."""
    for number, line in byte_lines(path):
        if not line.strip():
            continue
        try:
            yield number, msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise wrong_line(path, number, f"not valid JSON: {error}.") from None


def json_objects(path: str | Path) -> Iterator[tuple[int, Row]]:
    for number, value in json_rows(path):
        if not isinstance(value, dict):
            raise wrong_line(path, number, f"a JSON object expected, got {kind_of(value)}.")
        yield number, value


def kind_of(value: Any) -> str:
    """The name of a JSON value's kind, for people."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def byte_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file as bytes. Raises ``ConfigError`` for one that cannot be read."""
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, 1):
                yield number, first_line(line, shown_name(path)) if number == 1 else line
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{shown_name(path)} cannot be read: {reason}.") from error


def first_line(line: bytes, name: str) -> bytes:
    """The first line of a file without a byte-order mark. Raises ``ConfigError`` where the file is no text in UTF-8."""
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{name} is UTF-16: save it as UTF-8.", param="input")
    packed = next((how for start, how in _PACKED.items() if line.startswith(start)), None)
    if packed is not None:
        raise ConfigError(f"{name} is packed by {packed}: unpack it first.", param="input")
    return line.removeprefix(codecs.BOM_UTF8)


def _opened(path: str | Path) -> AbstractContextManager[IO[bytes]]:
    if str(path) == STANDARD_INPUT:
        return nullcontext(sys.stdin.buffer)
    if str(path).endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]  # a binary reader, whatever its class
    return Path(path).open("rb")
