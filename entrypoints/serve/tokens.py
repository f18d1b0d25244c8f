"""/tokenize and /detokenize, in vLLM's form and with TEI's field names."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from engine.entrypoints.serve.dialects.fields import Bool, as_bool, fail, read, read_keys
from engine.entrypoints.serve.errors import json_response
from engine.entrypoints.serve.limits import check_media_type
from engine.entrypoints.serve.service import RerankService


class TokenizeBody(msgspec.Struct, kw_only=True):
    prompt: str | None = None
    inputs: str | None = None
    model: str | None = None
    add_special_tokens: Bool = None
    return_token_strs: Bool = None


class DetokenizeBody(msgspec.Struct, kw_only=True):
    tokens: list[int] | None = None
    ids: list[int] | None = None
    model: str | None = None


class TokenRoutes:
    TOKENIZE: tuple[type[Any], ...] = (TokenizeBody,)
    DETOKENIZE: tuple[type[Any], ...] = (DetokenizeBody,)

    def __init__(self, service: RerankService) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        fields = await self._body(request, TokenizeBody)
        text = fields.prompt if fields.prompt is not None else fields.inputs
        if text is None:
            fail("A text is needed", "prompt")
        engine = self._service.engine
        ids = await self._service.in_thread(engine.processor.tokenize, text)
        strings = None
        if as_bool(fields.return_token_strs, "return_token_strs", default=False):
            strings = await self._service.in_thread(lambda: [engine.processor.detokenize([i]) for i in ids])
        return json_response(
            {"count": len(ids), "max_model_len": engine.spec.max_model_len, "tokens": ids, "token_strs": strings}
        )

    async def detokenize(self, request: Request) -> Response:
        fields = await self._body(request, DetokenizeBody)
        name = "tokens" if fields.tokens is not None else "ids"
        ids = getattr(fields, name)
        if ids is None:
            fail("Token ids are needed", "tokens")
        engine = self._service.engine
        for i, token in enumerate(ids):
            if not 0 <= token < engine.spec.vocab_size:
                fail(f"There is no token {token}; ids go from 0 to {engine.spec.vocab_size - 1}", f"{name}[{i}]")
        return json_response({"prompt": await self._service.in_thread(engine.processor.detokenize, ids)})

    async def _body(self, request: Request, type_: type[Any]) -> Any:
        check_media_type(request.headers)
        body = await request.body()
        self._service.served_name(None)
        read_keys(body)
        fields = read(body, type_)
        self._service.served_name(fields.model)
        return fields
