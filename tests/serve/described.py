"""The real application as /openapi.json describes it, for Schemathesis: in the tests and in the long run."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import schemathesis
from fastapi import FastAPI
from hypothesis import strategies

from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig, ServerConfig
from engine.entrypoints.serve.app import create_app
from engine.entrypoints.serve.dialects.score import BODIES
from engine.entrypoints.serve.loaded_engine import LoadedEngine
from engine.entrypoints.serve.metrics import ServerMetrics
from engine.entrypoints.serve.service import RerankService
from engine.inputs.processor import InputProcessor
from engine.pictures.loader import PictureLoader
from tests.serve.fakes import FakeCore
from tests.support.checkpoints import make_qwen3
from tests.support.pictures import data_url, make_qwen3_vl, picture

PICTURES = (data_url(picture(24, 24, 3)), data_url(picture(40, 24, 1), "webp"), data_url(picture(8, 9)).split(",")[1])
ABOUT_PICTURES = ("then not in chunks", "at most 4 are read", "is no picture", "cannot be read")
schemathesis.openapi.format("picture-url", strategies.sampled_from(PICTURES))


@cache
def checkpoint(*, pictures: bool = False) -> Path:
    """A small one for up to 8,192 tokens, or one that reads pictures; its folder goes when this process ends."""
    parent = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, parent, ignore_errors=True)
    if pictures:
        return make_qwen3_vl(parent / "Qwen3-VL-Reranker")
    return make_qwen3(parent / "Qwen3-Reranker", max_position_embeddings=8192)


@cache
def application(*, pictures: bool = False) -> FastAPI:
    """A Qwen3-Reranker's tokenizer and prompts, which have a place for every field, with a core that scores by hash."""

    async def build() -> FastAPI:
        service = RerankService(ServerConfig(allowed_hosts=("*",)), ServerMetrics())
        config = ModelConfig(model=str(checkpoint(pictures=pictures)))
        spec = resolve_model(config)
        loaded = LoadedEngine(spec, InputProcessor(spec, config), FakeCore(), ("reranker",))
        service.attach(replace(loaded, pictures=PictureLoader(spec.vision, ())))
        return create_app(service)

    return asyncio.run(build())


def described(*paths: str, coverage: bool = False, pictures: bool = False) -> Any:
    """The schema of these paths, or of all. ``coverage`` tries every border of every field first."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", application(pictures=pictures))
    schema.config.phases.coverage.enabled = coverage
    return schema.include(path=list(paths)) if paths else schema


def lengths_differ(body: Any) -> bool:
    """Two sides of pairs with unequal lengths."""
    if not isinstance(body, dict):
        return False
    every = (*BODIES, ("inputs", "docs"))
    given = {name for sides in every for name in sides if body.get(name) is not None}
    sides = next((sides for sides in every if given == set(sides)), None)
    if sides is None or not isinstance(body[sides[0]], list):
        return False
    second = body[sides[1]]
    return len(body[sides[0]]) not in (1, len(second) if isinstance(second, list) else 1)


def has_own_limit(body: Any) -> bool:
    """Pairs are to have at most so many tokens: whether they can depends on texts, instruction and ``truncate``."""
    if not isinstance(body, dict):
        return False
    named = body.get("parameters")
    inner = named.get("truncate_input_tokens") if isinstance(named, dict) else None
    return inner is not None or body.get("truncate_prompt_tokens") not in (None, -1)


def check(case: Any) -> None:
    """Raises what Schemathesis finds, but for the refusals that JSON Schema cannot foretell."""
    response = case.call()
    if response.status_code in (400, 422) and any(about in response.text for about in ABOUT_PICTURES):
        return
    if response.status_code in (400, 422) and "its texts would be left out" in response.text:
        return
    if lengths_differ(case.body) and response.status_code in (400, 422) and "got" in response.text:
        return
    if has_own_limit(case.body) and response.status_code in (400, 422) and " and the limit is " in response.text:
        return
    case.validate_response(response)
