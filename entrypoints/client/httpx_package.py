"""httpx, or the sentence that says how to get it: it is no dependency of the engine itself."""

from __future__ import annotations

try:
    import httpx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "engine.Client needs httpx, which is not installed: pip install 'rerank-engine[client]'"
    ) from error

__all__ = ["httpx"]
