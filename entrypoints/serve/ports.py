"""The listening socket, taken before anything heavy is loaded, and who has it if it is taken."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
from pathlib import Path

from engine.errors import ConfigError, StartupError

logger = logging.getLogger(__name__)
BACKLOG = 2048
OTHER_DESCRIPTORS = 256
"""What the process has open besides connections; a fifth of it is used."""
MIN_CONNECTIONS = 16


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket; port 0 lets the system choose.

    Raises ``ConfigError`` for a host or port that cannot be had, and ``StartupError`` for one that is taken; it says by
    whom.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror}.", param="host") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError):
            raise ConfigError(f"Port {port} needs more rights than this user has.", param="port") from error
        holder = port_holder(port)
        whose = f" by process {holder[0]} ({holder[1]})" if holder else ""
        raise StartupError(
            f"Cannot listen on {_in_address(host)}:{port}: {error.strerror}{whose}. Stop it, or choose another --port.",
            param="port",
        ) from error
    listener.setblocking(False)
    return listener


def listen_on_path(path: str) -> socket.socket:
    """A bound, listening Unix socket. A file that nobody listens on any more is replaced. Raises ``ConfigError``."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).is_socket():
            _remove_abandoned(path)
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"--uds {path}: {error.strerror or error}.", param="uds") from error
    listener.setblocking(False)
    return listener


def _remove_abandoned(path: str) -> None:
    """Removes the file of a socket that nobody listens on; raises ``OSError`` where somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError("another process listens on it")


def address_of(listener: socket.socket, *, tls: bool) -> str:
    """The name of a listening socket in the log: an address for clients."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{_in_address(host)}:{port}"


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def allow_open_files(num_connections: int) -> int:
    """Raises this process's own limit on descriptors until the connections fit, or as far as the system lets it.

    Gives the number of connections that fit; says so where that is less than asked. Raises ``StartupError`` where not
    even a few do.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = num_connections + OTHER_DESCRIPTORS
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == wanted:
        return num_connections
    fitting = max(allowed - OTHER_DESCRIPTORS, allowed // 4)
    if fitting < MIN_CONNECTIONS:
        raise StartupError(
            f"This process may open {hard} files, which leaves no room for connections: a server needs "
            f"{OTHER_DESCRIPTORS} and one for each connection. Raise the limit (ulimit -n {wanted})."
        )
    logger.warning(
        "this process may open %d files only: %d connections are taken at a time instead of %d, which need %d "
        "(ulimit -n)",
        hard,
        fitting,
        num_connections,
        wanted,
    )
    return fitting


def port_holder(port: int) -> tuple[int, str] | None:
    """Process id and name behind a listening port, as far as this user may see (Linux)."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor) in inodes:
                        return int(process.name), (process / "comm").read_text().strip()
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for row in Path(table).read_text().splitlines()[1:]:
                columns = row.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{columns[9]}]")
    return inodes
