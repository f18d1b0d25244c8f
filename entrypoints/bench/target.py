"""One server under measurement: its address, dialect and model."""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from engine.entrypoints.bench.dialects import Dialect, dialect_named, first_model
from engine.entrypoints.bench.options import ServeOptions
from engine.errors import ConfigError, StartupError
from engine.extras import pip_install

if TYPE_CHECKING:
    import aiohttp

KEY_VARIABLES = ("ENGINE_API_KEY", "OPENAI_API_KEY", "CO_API_KEY")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server that calls go to."""

    dialect: Dialect
    base_url: str
    endpoint: str
    model: str | None
    headers: dict[str, str]
    extra_body: dict[str, Any]
    stream: bool
    verify_tls: bool
    timeout_s: float

    @property
    def url(self) -> str:
        return self.base_url + self.endpoint


def target_of(options: ServeOptions) -> Target:
    """The server that the options name, checked as far as that goes without asking it.

    Raises ``ConfigError`` for flags that it cannot have.
    """
    dialect = dialect_named(options.backend)
    if options.stream and not dialect.streams:
        raise ConfigError(f"--stream: the dialect {dialect.name} has no streamed answers; use --backend rerank.")
    return Target(
        dialect=dialect,
        base_url=_checked_url(options.base_url or f"http://{options.host}:{options.port}"),
        endpoint=_checked_endpoint(options.endpoint, dialect),
        model=options.served_model_name or options.model,
        headers={**_key_header(), **named_values("--header", options.header)},
        extra_body=_json_object(options.extra_body),
        stream=options.stream,
        verify_tls=not options.insecure,
        timeout_s=options.request_timeout_s,
    )


def named_values(flag: str, words: tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE`` words as a dictionary. Raises ``ConfigError`` for a word that is none."""
    pairs = [word.partition("=") for word in words]
    wrong = [name for name, sign, _ in pairs if not sign or not name]
    if wrong:
        raise ConfigError(f"{flag} {wrong[0]!r}: write NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{url!r} is not an address of a server: write http://HOST:PORT.")
    return url.rstrip("/")


def _checked_endpoint(endpoint: str | None, dialect: Dialect) -> str:
    path = endpoint or dialect.endpoint
    if not path.startswith("/") or not path.rstrip("/").endswith(("rerank", "reranking", "invocations")):
        raise ConfigError(f"--endpoint {path!r} must be the path of a rerank route, such as {dialect.endpoint}.")
    return path


def _key_header() -> dict[str, str]:
    key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _json_object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"--extra-body is not a JSON object: {error}.") from None


def new_session(target: Target) -> aiohttp.ClientSession:
    """No limit on connections: the load is decided by the arrival times alone.

    Raises ``ConfigError`` without aiohttp.
    """
    try:
        import aiohttp
    except ModuleNotFoundError:
        raise ConfigError(f"The bench needs aiohttp: {pip_install('bench')}.") from None
    context: ssl.SSLContext | bool = True
    if not target.verify_tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context, keepalive_timeout=60),
        timeout=aiohttp.ClientTimeout(total=target.timeout_s),
        headers=target.headers,
    )


async def find_model(session: aiohttp.ClientSession, target: Target) -> tuple[str, str | None]:
    """(name for the calls, folder or hub id of its files), from the options or from the server.

    Raises ``ConfigError`` where neither says it.
    """
    path, status, listed = target.dialect.models_path, None, None
    if path is not None:
        async with session.get(target.base_url + path) as response:
            status = response.status
            if status >= 500:
                response.raise_for_status()  # not ready: the caller may wait
            listed = first_model(await response.read()) if status == 200 else None
    if listed is not None:
        return target.model or listed[0], listed[1]
    if target.model is None:
        said = "this dialect has no list of models" if path is None else f"{path} answered {status} and named none"
        raise ConfigError(f"Which model is to be measured at {target.base_url}? {said}: give --model NAME.")
    return target.model, target.model


async def await_model(session: aiohttp.ClientSession, target: Target, wait_s: float) -> tuple[str, str | None]:
    """``find_model``, patient for ``wait_s`` with a server that does not answer yet.

    Raises ``StartupError`` once that is over.
    """
    import aiohttp

    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        try:
            return await find_model(session, target)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if loop.time() >= deadline:
                raise StartupError(
                    f"No server answers at {target.base_url} ({_reason(error)}). Start it first, or check --base-url, "
                    "--host and --port; --ready-check-timeout-sec waits for a server that is still loading."
                ) from None
        await asyncio.sleep(min(0.5, max(0.05, deadline - loop.time())))


def _reason(error: Exception) -> str:
    """What the operating system said, where it did: aiohttp's own text names the same address twice more."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)
    return str(error) or type(error).__name__
