"""Logging of the commands: one line an event, as text for people or JSON for collectors, on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

from engine.errors import ConfigError

LEVELS = ("debug", "info", "warning", "error", "critical")
_NOISY = ("uvicorn", "httpx", "httpcore", "urllib3", "filelock", "huggingface_hub", "asyncio")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up_logging(level: str = "info", log_format: Literal["text", "json"] = "text") -> None:
    if level.lower() not in LEVELS:
        raise ConfigError(f"--log-level {level}: choose one of {', '.join(LEVELS)}.", param="log_level")
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING if level.lower() != "debug" else logging.INFO)
