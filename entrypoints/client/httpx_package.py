"""httpx, or the sentence that says how to get it: it is no dependency of the engine itself."""

from __future__ import annotations

from engine.extras import pip_install

try:
    import httpx
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"engine.Client needs httpx, which is not installed: {pip_install('client')}") from error

__all__ = ["httpx"]
