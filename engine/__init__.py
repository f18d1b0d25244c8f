"""engine: a rerank inference engine. ``from engine import LLM`` offline, ``engine serve`` online."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from engine.platform_check import refuse_unsupported
from engine.version import __version__

refuse_unsupported()
# Where torch_npu is installed and CANN is not, torch's autoloading makes `import torch` itself fail, for every device.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

__all__ = [
    "LLM",
    "AsyncClient",
    "Client",
    "EngineError",
    "RerankResult",
    "ScoringOutput",
    "ScoringRequestOutput",
    "__version__",
]

if TYPE_CHECKING:
    from engine.entrypoints.client import AsyncClient, Client
    from engine.entrypoints.offline.llm import LLM
    from engine.errors import EngineError
    from engine.outputs import RerankResult, ScoringOutput, ScoringRequestOutput

_HOMES = {
    "LLM": "engine.entrypoints.offline.llm",
    "AsyncClient": "engine.entrypoints.client",
    "Client": "engine.entrypoints.client",
    "EngineError": "engine.errors",
    "RerankResult": "engine.outputs",
    "ScoringOutput": "engine.outputs",
    "ScoringRequestOutput": "engine.outputs",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that the command line and the API process start without torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
