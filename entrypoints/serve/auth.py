"""Who may call. Deny by default: with keys set, everything needs one but the health routes and the files of the
page, which hold no data: what the page shows it asks for with the key that its user types.

The decision is made on the very path that the router matches, by equality with the open routes: a spelling that is not
exactly one of them needs a key, and so does a path that exists nowhere. The Host header plays no part.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.config import ServerConfig
from engine.entrypoints.serve.errors import error_response, route_path
from engine.entrypoints.serve.page.files import PAGE_PATHS
from engine.errors import AuthenticationError, ConfigError

OPEN_ROUTES = frozenset(
    (
        "/live",
        "/ready",
        "/health",
        "/.well-known/live",
        "/.well-known/ready",
        "/v1/cluster/auth",
        "/v2/health/live",
        "/v2/health/ready",
    ),
)
SCHEMES = ("bearer", "zenapikey")
"""What stands before a key in ``Authorization``, in lower case."""


def check_exposure(config: ServerConfig) -> None:
    """Refuses to listen on an address that others can reach without a key, unless a flag says that it is meant.

    Raises ``ConfigError`` with the flags that help.
    """
    if any(not key.strip() for key in config.api_key):
        raise ConfigError("--api-key must not be empty: an empty key would let everyone in.", param="api_key")
    if config.api_key or config.insecure_no_auth or config.uds or is_loopback(config.host):
        return
    raise ConfigError(
        f"--host {config.host} can be reached from other machines, and no key is set: everyone there could use this "
        "server. Set --api-key KEY (or ENGINE_API_KEY), bind 127.0.0.1, or say --insecure-no-auth if that is meant.",
        param="host",
    )


def with_key_file(config: ServerConfig) -> ServerConfig:
    """``config`` with the keys of its file among its keys. Raises ``ConfigError`` where there are none."""
    if config.api_key_file is None:
        return config
    try:
        lines = Path(config.api_key_file).expanduser().read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise ConfigError(f"--api-key-file {config.api_key_file}: {reason}.", param="api_key_file") from error
    keys = [line.strip() for line in lines if line.strip()]
    if not keys:
        raise ConfigError(f"--api-key-file {config.api_key_file}: there is no key in it.", param="api_key_file")
    return replace(config, api_key=(*config.api_key, *keys), api_key_file=None)


def is_loopback(host: str) -> bool:
    """Whether an address or host name means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Authentication:
    """ASGI middleware: 401 without a known key. A known key's digest is left in ``scope["state"]`` as the caller."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._digests:
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no websockets here, and nothing else may pass
        presented = _presented_key(Headers(scope=scope))
        caller = self._known(presented) if presented else None
        if caller is not None:
            scope.setdefault("state", {})["caller"] = caller
        elif not _is_open(scope):
            reason = "The API key is wrong." if presented else "An API key is needed: Authorization: Bearer KEY."
            response = error_response(AuthenticationError(reason), scope)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, key: str) -> str | None:
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        # Every digest is compared, so that the time says nothing about which one was close.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return digest.hex()[:16] if any(matches) else None


def _is_open(scope: Scope) -> bool:
    """The same path may belong to a call: ``POST /`` is TEI's, and needs a key."""
    path = route_path(scope)
    return path in OPEN_ROUTES or (scope["method"] in ("GET", "HEAD") and path in PAGE_PATHS)


def _presented_key(headers: Headers) -> str | None:
    """``Authorization: Bearer KEY``, the bare key there, watsonx' ``ZenApiKey KEY``, the ``Api-Key`` of Azure and
    Pinecone, or the access key id of a request that Amazon's SDKs sign, whose signature plays no part.
    """
    value = headers.get("authorization") or headers.get("api-key") or headers.get("x-api-key")
    if not value:
        return None
    scheme, _, rest = value.partition(" ")
    if scheme == "AWS4-HMAC-SHA256":
        return rest.partition("Credential=")[2].partition("/")[0]
    return rest.strip() if scheme.lower() in SCHEMES and rest else value.strip()
