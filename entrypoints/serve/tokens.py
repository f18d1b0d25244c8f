"""/tokenize and /detokenize, in vLLM's form and with TEI's field names."""

from __future__ import annotations

from functools import partial
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
        special = as_bool(fields.add_special_tokens, "add_special_tokens", default=True)
        ids = await self._service.in_thread(partial(engine.processor.tokenize, text, add_special_tokens=special))
        strings = None
        if as_bool(fields.return_token_strs, "return_token_strs", default=False):
            strings = await self._service.in_thread(engine.processor.token_strings, ids)
        return json_response(
            {"count": len(ids), "max_model_len": engine.spec.max_model_len, "tokens": ids, "token_strs": strings}
        )

    async def detokenize(self, request: Request) -> Response:
        fields = await self._body(request, DetokenizeBody)
        ids = fields.tokens if fields.tokens is not None else fields.ids
        if ids is None:
            fail("Token ids are needed", "tokens")
        text = await self._service.in_thread(self._service.engine.processor.detokenize, ids)
        return json_response({"prompt": text})

    async def _body(self, request: Request, type_: type[Any]) -> Any:
        check_media_type(request.headers)
        body = await request.body()
        self._service.served_name(None)
        read_keys(body)
        fields = read(body, type_)
        self._service.served_name(fields.model)
        return fields
