"""IBM watsonx.ai: ``inputs`` are the documents, and what comes back is asked for in ``parameters``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.entrypoints.serve.dialects.base import (
    CallResult,
    Dialect,
    PartialAnswer,
    RequestView,
    TextPaths,
    partial_of,
)
from engine.entrypoints.serve.dialects.extensions import Extensions, call_of
from engine.entrypoints.serve.dialects.fields import (
    Bool,
    Count,
    CutLength,
    Query,
    TextOrDocuments,
    as_bool,
    as_count,
    as_documents,
    as_int,
    as_query,
)
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore

ECHO = "echo"
"""The query is wanted back."""
OPTIONS = ("parameters", "return_options")


class WatsonxOptions(msgspec.Struct):
    top_n: Count = None
    inputs: Bool = None
    query: Bool = None


class WatsonxParameters(msgspec.Struct):
    truncate_input_tokens: CutLength = None
    return_options: WatsonxOptions | None = None


class WatsonxBody(Extensions, kw_only=True):
    query: Query
    inputs: TextOrDocuments
    model_id: Annotated[str | None, Meta(description="Its name of model.")] = None
    parameters: WatsonxParameters | None = None
    project_id: str | None = None
    space_id: str | None = None


class WatsonxEntry(msgspec.Struct, kw_only=True):
    index: int
    score: float
    input: dict[str, str] | UnsetType = UNSET


class WatsonxAnswer(PartialAnswer, kw_only=True):
    model_id: str
    results: list[WatsonxEntry]
    input_token_count: int
    query: str | UnsetType = UNSET


class WatsonxDialect(Dialect):
    name = "watsonx"
    title = "IBM watsonx.ai"
    paths: ClassVar[Mapping[str, str]] = {"/ml/v1/text/rerank": "watsonx.ai's path."}
    body_keys = ("query", "inputs")
    precedence = 8
    text_paths = TextPaths(("query",), ("inputs", ..., "text"))
    request_type: ClassVar[Any] = WatsonxBody
    answer_type: ClassVar[Any] = WatsonxAnswer

    def to_call(self, body: WatsonxBody, view: RequestView) -> RerankCall:
        parameters = body.parameters or WatsonxParameters()
        wanted = parameters.return_options or WatsonxOptions()
        named: dict[str, Any] = {}
        cut_to = as_int(parameters.truncate_input_tokens, ("parameters", "truncate_input_tokens"), minimum=1)
        if cut_to is not None and body.truncate_prompt_tokens is None:
            named["truncate_prompt_tokens"] = cut_to
        call = call_of(
            body,
            view,
            queries=[as_query(body.query)],
            documents=as_documents(body.inputs, "inputs"),
            top_n=as_count(wanted.top_n, (*OPTIONS, "top_n")),
            return_documents=as_bool(wanted.inputs, (*OPTIONS, "inputs"), default=False),
            **named,
        )
        echo = as_bool(wanted.query, (*OPTIONS, "query"), default=False)
        return replace(call, model=call.model or body.model_id, memo=ECHO if echo else None)

    def render(self, result: CallResult) -> Any:
        return WatsonxAnswer(
            model_id=result.model,
            results=[self.render_pair(pair, result.call) for pair in result.pairs],
            input_token_count=result.prompt_tokens,
            query=result.call.queries[0] if result.call.memo == ECHO else UNSET,
            **partial_of(result),
        )

    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        text = {"text": call.documents[pair.index]} if call.return_documents else UNSET
        return WatsonxEntry(index=pair.index, score=pair.score, input=text)

    def render_error(self, error: EngineError, request_id: str) -> Any:
        found = {"code": error.code or error.type, "message": str(error)}
        return {"errors": [found], "trace": request_id, "status_code": error.status}
