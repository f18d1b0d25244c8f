"""What protects a server without a key from web pages of others, which every browser on this machine may have open.

A page can make its browser send requests to ``127.0.0.1`` without asking anybody, or give the server a host name of its
own (DNS rebinding). So without a key a server on loopback answers only for host names that mean loopback, and no server
takes what a browser marks as coming from another site. A key stops both by itself, since no page knows it.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.config import ServerConfig
from engine.entrypoints.serve.auth import is_loopback
from engine.entrypoints.serve.errors import error_response
from engine.errors import ForbiddenError, MisdirectedRequestError, RequestError

_HOST = re.compile(r"(\[(?P<address>[^\[\]]*)\]|(?P<name>[^:\[\]]*?)\.?)(:\d*)?")
_OTHER_SITES = ("cross-site", "same-site")


class BrowserGuard:
    """ASGI middleware: 421 for a host name that this server has not, 403 for what another site's page sent."""

    def __init__(self, app: ASGIApp, config: ServerConfig) -> None:
        self._app = app
        self._hosts = _allowed_hosts(config)
        self._open = not config.api_key
        self._origins = frozenset(origin.rstrip("/") for origin in config.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check_host(headers.get("host", ""))
            if self._open and not self._is_allowed(headers.get("origin")):
                _check_site(scope["method"], headers)
        except RequestError as error:
            await error_response(error, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_allowed(self, origin: str | None) -> bool:
        """Whether ``--allowed-origins`` lets that page in."""
        return origin is not None and ("*" in self._origins or origin in self._origins)

    def _check_host(self, host: str) -> None:
        name = host_name(host)
        if self._hosts is None or not host or name in self._hosts or (is_loopback(name) and "localhost" in self._hosts):
            return
        raise MisdirectedRequestError(
            f"This server does not answer for the host {host[:200]!r}. Start it with --allowed-hosts {name[:200]} if "
            "it should (a key, --api-key, lifts the limit too)."
        )


def _allowed_hosts(config: ServerConfig) -> frozenset[str] | None:
    """The host names that are answered for; None: all."""
    if config.allowed_hosts:
        return None if "*" in config.allowed_hosts else frozenset(map(str.lower, config.allowed_hosts))
    if config.api_key or config.uds or not is_loopback(config.host):  # browsers cannot reach a Unix socket
        return None
    return frozenset((config.host.lower(), "localhost"))


def host_name(host: str) -> str:
    """The name in a ``Host`` header, without the port and the dot of a complete name: ``[::1]:8000`` is ``::1``.

    What has neither form is returned as it is: the name of nobody.
    """
    found = _HOST.fullmatch(host.lower())
    return (found["address"] or found["name"]) if found else host.lower()


def _check_site(method: str, headers: Headers) -> None:
    """Raises ``ForbiddenError`` for what a browser sends on behalf of another site's page.

    Following a link to this server's own page is allowed: it reads nothing and changes nothing.
    """
    site = headers.get("sec-fetch-site", "")
    link = method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
    origin = headers.get("origin")
    foreign = origin is not None and (
        origin == "null" or urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    )
    if (site in _OTHER_SITES and not link) or (foreign and site not in ("same-origin", "none")):
        raise ForbiddenError(
            "A web page of another site sent this request, and this server has no key: --allowed-origins lets such "
            "pages in, and so does a key, --api-key."
        )
