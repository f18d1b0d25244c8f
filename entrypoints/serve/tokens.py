"""/tokenize and /detokenize in vLLM's form, and in TEI's where its fields are used: ``inputs``, ``ids`` (/decode)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import Request
from msgspec import Meta
from starlette.responses import Response

from engine.entrypoints.serve.dialects.body import read, read_keys
from engine.entrypoints.serve.dialects.classify import Messages, pair_of
from engine.entrypoints.serve.dialects.field_schemas import EXACT, TOKEN_ID
from engine.entrypoints.serve.dialects.fields import Bool, TokenIds, as_bool, as_ids, fail
from engine.entrypoints.serve.errors import json_response
from engine.entrypoints.serve.limits import check_media_type
from engine.entrypoints.serve.loaded_engine import Processor
from engine.entrypoints.serve.service import RerankService
from engine.entrypoints.serve.token_stream import TokenStream, is_long
from engine.errors import PARAM, TooLargeError
from engine.inputs.spans import TextToken
from engine.request import PairOptions, all_encoded

MAX_IDS = 2**18
_IDS = {"type": "array", "items": TOKEN_ID}
_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_SOME_IDS = {"anyOf": [_IDS, {"type": "array", "items": _IDS}]}


class TokenizeBody(msgspec.Struct, kw_only=True):
    """vLLM: a text."""

    prompt: str
    model: str | None = None
    add_special_tokens: Bool = None
    return_token_strs: Bool = None


class TokenizeMessagesBody(msgspec.Struct, kw_only=True):
    """vLLM: a query and a document, whose whole prompt is wanted."""

    messages: Messages
    model: str | None = None
    add_special_tokens: Bool = None
    return_token_strs: Bool = None


class TokenizeInputsBody(msgspec.Struct, kw_only=True):
    """TEI: one text or several."""

    inputs: Annotated[str | list[str], Meta(extra_json_schema={EXACT: _TEXTS})]
    model: str | None = None
    add_special_tokens: Bool = None


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """vLLM: the ids of one text."""

    tokens: TokenIds
    model: str | None = None


class DecodeBody(msgspec.Struct, kw_only=True):
    """TEI: the ids of one text or of several."""

    ids: Annotated[list[int | float | list[int | float]], Meta(extra_json_schema={EXACT: _SOME_IDS})]
    skip_special_tokens: Bool = None
    model: str | None = None


class TokenizeAnswer(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(msgspec.Struct):
    prompt: str


class TokenRoutes:
    """Tokenize and detokenize, in the forms of vLLM and TEI."""

    TOKENIZE = (TokenizeBody, TokenizeMessagesBody, TokenizeInputsBody)
    TOKENIZE_ANSWERS = (TokenizeAnswer, list[list[TextToken]])
    DETOKENIZE = (DetokenizeBody, DecodeBody)
    DETOKENIZE_ANSWERS = (DetokenizeAnswer, list[str])

    def __init__(self, service: RerankService) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        """Token ids of a text, or TEI's tokens of texts. Raises ``RequestError``."""
        types = {"inputs": TokenizeInputsBody, "messages": TokenizeMessagesBody}
        fields = await self._body(request, types, TokenizeBody)
        special = as_bool(fields.add_special_tokens, "add_special_tokens", default=True)
        engine = self._service.models.choose(fields.model).engine
        processor = engine.processor
        if isinstance(fields, TokenizeInputsBody):
            texts = [fields.inputs] if isinstance(fields.inputs, str) else fields.inputs
            if is_long(texts):
                return await TokenStream(self._service, engine, special=special).tei(texts)
            tokens = await self._service.threads.run(
                lambda: [processor.text_tokens(text, add_special_tokens=special) for text in texts]
            )
            return json_response(tokens)
        with_strings = as_bool(fields.return_token_strs, "return_token_strs", default=False)
        if isinstance(fields, TokenizeBody) and is_long([fields.prompt]):
            stream = TokenStream(self._service, engine, special=special)
            return await stream.vllm(fields.prompt, with_strings=with_strings)
        ids = await self._service.threads.run(_prompt_ids, processor, fields, special)
        strings = None
        if with_strings:
            strings = await self._service.threads.run(processor.token_strings, ids)
        return json_response(TokenizeAnswer(len(ids), engine.spec.max_model_len, ids, strings))

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids, or TEI's list of texts. Raises ``RequestError``."""
        fields = await self._body(request, {"ids": DecodeBody}, DetokenizeBody)
        decode = self._service.models.choose(fields.model).engine.processor.detokenize
        if isinstance(fields, DetokenizeBody):
            _check_number(fields.tokens, "tokens")
            text = await self._service.threads.run(decode, as_ids(fields.tokens, "tokens"))
            return json_response(DetokenizeAnswer(text))
        _check_number(fields.ids, "ids")
        several = [as_ids(one, ("ids", i)) for i, one in enumerate(fields.ids) if isinstance(one, list)]
        if several and len(several) < len(fields.ids):
            fail("Expected token ids, or a list of lists of them", "ids")
        skip = as_bool(fields.skip_special_tokens, "skip_special_tokens", default=True)
        lists = several or [as_ids([one for one in fields.ids if not isinstance(one, list)], "ids")]
        texts = [await self._service.threads.run(partial(decode, one, skip_special_tokens=skip)) for one in lists]
        return json_response(texts)

    async def _body(self, request: Request, by_key: Mapping[str, type[Any]], otherwise: type[Any]) -> Any:
        """``by_key``: the struct of a body with this key."""
        check_media_type(request.headers)
        body = await request.body()
        self._service.served_name(None)
        keys = read_keys(body)
        type_ = next((type_ for key, type_ in by_key.items() if keys.get(key, "null") != "null"), otherwise)
        fields = read(body, type_)
        self._service.served_name(fields.model)
        return fields


def _prompt_ids(processor: Processor, fields: TokenizeBody | TokenizeMessagesBody, special: bool) -> list[int]:
    if isinstance(fields, TokenizeMessagesBody):
        query, document, instruction = pair_of(fields.messages)
        (pair,) = all_encoded(processor.encode_each([query], [document], PairOptions(instruction=instruction)))
        ids: list[int] = pair.token_ids.tolist()
        return ids
    return processor.tokenize(fields.prompt, add_special_tokens=special)


def _check_number(ids: list[Any], where: str) -> None:
    """Raises ``TooLargeError`` for more ids than any text has that a model reads: the library decodes them in one go,
    and nothing else of this process runs meanwhile."""
    number = len(ids) + sum(len(one) for one in ids if isinstance(one, list))
    if number > MAX_IDS:
        raise TooLargeError(f"{PARAM} has {number} ids, and at most {MAX_IDS} are read.", param=where)
