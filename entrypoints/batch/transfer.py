"""Batch files that lie behind an HTTP address: fetched before, put there afterwards."""

from __future__ import annotations

import hashlib
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from engine.errors import ConfigError

TIMEOUT_S = 60.0


def is_address(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def local_name(address: str, folder: Path) -> Path:
    """The same file for the same address, so that a run can be resumed."""
    return folder / f"batch-{hashlib.sha256(address.encode()).hexdigest()[:16]}.jsonl"


def fetch(address: str, target: Path) -> None:
    """Download the input to a file. Raises ``ConfigError`` with the server's reason."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer, target.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except OSError as error:
        raise ConfigError(f"--input-file {address}: {_reason(error)}.", param="input") from error


def put(source: Path, address: str) -> None:
    """Upload the answers. Raises ``ConfigError`` with the server's reason and the file that has them."""
    with source.open("rb") as file:
        headers = {"Content-Type": "application/jsonl", "Content-Length": str(source.stat().st_size)}
        request = urllib.request.Request(address, data=file, headers=headers, method="PUT")
        try:
            urllib.request.urlopen(request, timeout=TIMEOUT_S).close()
        except OSError as error:
            raise ConfigError(
                f"--output-file {address}: {_reason(error)}. The rows are in {source}.", param="output"
            ) from error


def _reason(error: OSError) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", None) or error)
