"""Logging of the commands: ``--log-level`` and ``--log-format``, and libraries that say too much."""

from __future__ import annotations

import logging

from engine import logs
from engine.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error", "critical")
_NOISY = ("uvicorn", "httpx", "httpcore", "urllib3", "filelock", "huggingface_hub", "asyncio", "opentelemetry")


def set_up_logging(level: str = "info", log_format: logs.LogFormat = "text", process: str = "") -> None:
    """Send the log to standard error. Raises ``ConfigError`` for a level that is none."""
    if level.lower() not in LEVELS:
        raise ConfigError(f"--log-level {level}: choose one of {', '.join(LEVELS)}.", param="log_level")
    logs.set_up(level.upper(), log_format, process)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING if level.lower() != "debug" else logging.INFO)
