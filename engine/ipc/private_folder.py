"""Temporary folders of a running process: nobody else can enter them, and what a kill left is removed by the parent of
the process, or by the next start.

A folder belongs to the process that holds the lock on its file ``lock`` (``flock``, released by the kernel however the
process ends, also across containers that share the folder). Whoever makes a new folder first sweeps its neighbours
whose lock is free.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine.errors import ConfigError

PREFIX = "engine-"
LOCK = "lock"
MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path (``sun_path`` less its terminator, unix(7))."""
_SUFFIX_BYTES = len(f"/{PREFIX}xxxxxxxx/down")
_FALLBACKS = ("/tmp", "/var/tmp", "/dev/shm")


class PrivateFolder:
    """A new folder with mode 0700; ``remove`` it when it is not needed any more.

    Raises ``ConfigError`` when no temporary folder can be written, or, ``for_sockets``, has a short enough path.
    """

    def __init__(self, *, for_sockets: bool = False) -> None:
        base = _base(for_sockets)
        sweep(base)
        try:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.write(self._lock, f"{os.getpid()}\n".encode())
            atexit.register(self.remove)  # a thread that the end of the process interrupts removes nothing
        except OSError as error:
            raise ConfigError(
                f"No temporary folder can be made in {base}: {error.strerror}. Set TMPDIR to one that can be written."
            ) from error

    def remove(self) -> None:
        """Removes the folder with what is in it. May be called twice."""
        atexit.unregister(self.remove)
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A private folder for the length of a ``with``; see ``PrivateFolder`` for what it raises."""
    folder = PrivateFolder()
    try:
        yield folder.path
    finally:
        folder.remove()


def sweep(base: Path) -> list[Path]:
    """Remove folders of this user in ``base`` whose processes have ended; returns them. Errors leave a folder alone."""
    removed = []
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_left_over(folder):
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


def sweep_all() -> None:
    """``sweep`` wherever this process would make such folders."""
    with contextlib.suppress(ConfigError):
        for base in {_base(for_sockets=False), _base(for_sockets=True)}:
            sweep(base)


def _is_left_over(folder: Path) -> bool:
    """Whether it is a folder of ours, with a lock that nobody holds."""
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        return False
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)  # raises where there is none
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(lock).st_size > 0  # an empty one is being made at this moment
    finally:
        os.close(lock)


def _base(for_sockets: bool) -> Path:
    """The folder for temporary files, or, where its path is too long for sockets, the first other one that serves."""
    usual = Path(tempfile.gettempdir())
    if not for_sockets or _fits_socket_path(usual):
        return usual
    for other in map(Path, (os.environ.get("XDG_RUNTIME_DIR", ""), *_FALLBACKS)):
        if other.is_absolute() and _fits_socket_path(other) and os.access(other, os.W_OK | os.X_OK):
            return other
    raise ConfigError(
        f"The folder for temporary files, {usual}, has a path too long for sockets (at most "
        f"{MAX_SOCKET_PATH - _SUFFIX_BYTES} bytes). Set TMPDIR to a shorter one."
    )


def _fits_socket_path(base: Path) -> bool:
    return len(os.fsencode(base)) + _SUFFIX_BYTES <= MAX_SOCKET_PATH
