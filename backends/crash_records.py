"""What was being tried when a process ended, so that the next one does not try it again.

A kernel that the device cannot run may take the process along, or leave it a device that fails for ever. Then nothing
can be caught; but a file that was written before can be found by the worker that is started in its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder(*names: str) -> Path:
    """``~/.cache/rerank-engine/...``, or where XDG_CACHE_HOME says."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser().joinpath("rerank-engine", *(re.sub(r"[^\w.+-]+", "-", name) for name in names))


_LOST = ".lost"


class CrashRecords:
    """Files named after what is tried and the process that tries it, in ``folder``, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def why_not(self, what: str) -> str | None:
        """A sentence if a process ended while it tried ``what``; None: nothing is known against it."""
        for file in self._folder.glob(f"{_slug(what)}.*"):
            if file.suffix == _LOST or _has_ended(file.suffix.removeprefix(".")):
                return f"the process that tried it last ended; remove {file} to try again"
        return None

    @contextmanager
    def trying(self, what: str, is_lost: Callable[[BaseException], bool]) -> Iterator[None]:
        """The file is there meanwhile, and stays if this process ends, or raises what ``is_lost`` says of the device.

        Where it cannot be written, nothing is remembered.
        """
        file = self._folder / f"{_slug(what)}.{os.getpid()}"
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            file.touch()
        try:
            yield
        except BaseException as error:
            if is_lost(error):
                with suppress(OSError):
                    file.replace(file.with_suffix(_LOST))  # this process ends soon, and may still be there for the next
            else:
                _remove(file)
            raise
        _remove(file)


def _has_ended(pid: str) -> bool:
    """Whether the process of that number is no more, a zombie included; this one's number was another's before."""
    if not pid.isdigit():
        return False
    if int(pid) == os.getpid():
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return True
    return state in "ZX"


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink(missing_ok=True)


def _slug(what: str) -> str:
    return re.sub(r"\W+", "-", what)
