"""TLS: certificate and key are checked before anything is loaded, and read again whenever their files change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

from engine.config import ServerConfig
from engine.errors import ConfigError

logger = logging.getLogger(__name__)

TICKS_BETWEEN_CHECKS = 20
"""uvicorn ticks ten times a second."""


def tls_settings(config: ServerConfig) -> dict[str, Any]:
    """uvicorn's settings for TLS; empty where it is off."""
    if config.ssl_certfile is None:
        return {}
    ciphers = {} if config.ssl_ciphers is None else {"ssl_ciphers": config.ssl_ciphers}
    return {
        "ssl_certfile": config.ssl_certfile,
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_keyfile_password": config.ssl_keyfile_password,
        "ssl_ca_certs": config.ssl_ca_certs,
        "ssl_cert_reqs": config.ssl_cert_reqs,
        **ciphers,
    }


def check_tls(config: ServerConfig) -> None:
    """Raises ``ConfigError`` for files that are not there, do not fit together, or are named without their partner."""
    if config.ssl_certfile is None:
        for name in ("ssl_keyfile", "ssl_ca_certs", "ssl_ciphers", "ssl_keyfile_password"):
            if getattr(config, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{flag} is given without --ssl-certfile, so nothing would be encrypted.", param=name)
        if config.ssl_cert_reqs:
            raise ConfigError("--ssl-cert-reqs asks for certificates without --ssl-certfile.", param="ssl_cert_reqs")
        return
    if config.ssl_cert_reqs and config.ssl_ca_certs is None:
        raise ConfigError(
            "--ssl-cert-reqs asks for certificates of clients; --ssl-ca-certs FILE says who may sign them.",
            param="ssl_ca_certs",
        )
    for name in ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs"):
        path = getattr(config, name)
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"--{name.replace('_', '-')} {path}: there is no such file.", param=name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        _load_pair(context, config)
        if config.ssl_ca_certs is not None:
            context.load_verify_locations(config.ssl_ca_certs)
        if config.ssl_ciphers is not None:
            context.set_ciphers(config.ssl_ciphers)
    except (ssl.SSLError, OSError) as error:
        files = " with ".join(filter(None, (config.ssl_certfile, config.ssl_keyfile)))
        raise ConfigError(
            f"--ssl-certfile {files}: {getattr(error, 'reason', None) or error}. Both are PEM files, and the key "
            "is that of the certificate.",
            param="ssl_certfile",
        ) from error


def _load_pair(context: ssl.SSLContext, config: ServerConfig) -> None:
    assert config.ssl_certfile is not None
    # An empty password instead of None: OpenSSL would ask for one on the terminal.
    context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, config.ssl_keyfile_password or "")


class CertificateWatch:
    """Gives new connections the certificate that is in the files now; ``look`` is called at every tick."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._ticks = 0
        self._seen = self._stamp()

    def look(self, context: ssl.SSLContext | None) -> None:
        """Reads the files again if they have changed; a pair that does not fit leaves the old one in place."""
        self._ticks += 1
        if context is None or self._ticks % TICKS_BETWEEN_CHECKS:
            return
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            check_tls(self._config)  # on a context of its own first: half a pair must not reach connections
            _load_pair(context, self._config)
        except (ConfigError, OSError) as error:
            logger.warning("the certificate changed and cannot be used, the one before stays: %s", error)
            return
        logger.info("the certificate changed: new connections get the new one")

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in (self._config.ssl_certfile, self._config.ssl_keyfile):
            try:
                status = Path(path or "").stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)
