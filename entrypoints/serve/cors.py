"""CORS: which web pages of other sites may call from a browser. Off unless ``--allowed-origins`` names some."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from engine.config import ServerConfig

READABLE_HEADERS = ("X-Request-Id", "Retry-After", "X-Partial", "X-Unscored")
"""Headers of an answer that a page may read beside those that it always may."""


def add_cors(app: FastAPI, config: ServerConfig) -> None:
    """Answers preflights, and marks answers, errors among them, for the pages that may read them.

    It stands before the key, since a browser sends a preflight without one.
    """
    if not config.allowed_origins:
        return
    app.add_middleware(
        CORSMiddleware,
        allow_origins=config.allowed_origins,
        allow_methods=config.allowed_methods,
        allow_headers=config.allowed_headers,
        allow_credentials=config.allow_credentials,
        expose_headers=READABLE_HEADERS,
    )
