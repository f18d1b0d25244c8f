"""Known clients and what to set in them; the data is ``clients.toml`` beside this file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from engine.entrypoints.settings.options import nearest
from engine.errors import ConfigError


@dataclass(frozen=True)
class ClientSettings:
    """One client."""

    id: str
    title: str
    speaks: str
    """Dialect whose answers it reads."""
    settings: str
    """Text to copy, with places for address, key and model."""
    package: str = ""
    """From PyPI."""
    npm: str = ""
    note: str = ""
    shown_by: str = ""
    """Test that uses it, where that is none of tests/clients."""

    def text(self, url: str, key: str, model: str) -> str:
        values = {"url": url, "key": key, "model": model}
        lines = [self.title]
        if self.package:
            lines.append(f"pip install {self.package}")
        if self.npm:
            lines.append(f"npm install {self.npm}")
        if self.note:
            lines.append(self.note.format(**values))
        lines = [f"{'//' if self.npm else '#'} {line}" for line in lines]
        return "\n".join([*lines, self.settings.strip().format(**values)])


@cache
def known_clients() -> dict[str, ClientSettings]:
    text = (Path(__file__).parent / "clients.toml").read_text("utf-8")
    return {name: ClientSettings(id=name, **entry) for name, entry in tomllib.loads(text).items()}


def chosen_clients(names: tuple[str, ...]) -> list[ClientSettings]:
    """Those whose id begins with or equals one of ``names``; all of them without a name.

    Raises ``ConfigError`` for a name that no id begins with.
    """
    known = known_clients()
    chosen = []
    for name in names:
        found = [client for client in known.values() if client.id == name or client.id.startswith(f"{name}-")]
        if not found:
            raise ConfigError(f"There is no client {name!r}; known are {', '.join(known)}.{nearest(name, known)}")
        chosen += found
    return chosen if names else list(known.values())


def checked_url(url: str) -> str:
    """An address without a path's last slash; the settings add paths of their own.

    Raises ``ConfigError`` for what is no such address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--base-url {url}: an address like http://127.0.0.1:8000 expected.", param="base_url")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ConfigError(
            f"--base-url {url}: without /v1 please; each client's settings add what it needs.", param="base_url"
        )
    return url.rstrip("/")
