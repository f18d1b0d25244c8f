"""What every codec offers, and what it is given.

A codec is a small value with three duties: ``parse`` turns a body into a ``RerankCall``, ``render`` turns the finished
call into the answer, ``render_error`` gives errors the shape that its clients read. Its structs say which fields go in
and out, and describe them in /openapi.json. Nothing else in the server knows one dialect from another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.fields import Keys, read
from engine.entrypoints.serve.errors import error_object
from engine.errors import EngineError
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """A finished call."""

    request_id: str
    model: str
    created: int
    call: RerankCall
    rankings: list[list[PairScore]]
    """One a query: best first, ties by index, cut to ``top_n`` and ``min_score``."""
    in_order: list[PairScore]
    """Every scored document, in input order, query by query."""
    errors: dict[int, EngineError] = field(default_factory=dict)
    """By place in that order."""
    unscored: list[int] = field(default_factory=list)
    """Places that the call's own deadline left without a score."""
    prompt_tokens: int = 0
    computed_tokens: int = 0
    num_steps: int = 0
    truncated_documents: int = 0
    encode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0

    @property
    def pairs(self) -> list[PairScore]:
        """Of a call with one query."""
        return self.rankings[0]


@dataclass(frozen=True, slots=True)
class RequestView:
    """What a codec may know beyond the body."""

    path: str
    headers: Mapping[str, str]
    default_model: str = ""
    caller: str = ""
    label_tokens: tuple[int, ...] = ()
    """Ids of the model's "yes" and "no", where it has such tokens."""


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What the caller calls query and documents: errors name the caller's fields. ``{}`` stands for the index."""

    query: str = "query"
    document: str = "documents[{}]"


@dataclass(frozen=True, slots=True)
class ParsedCall:
    call: RerankCall
    unknown_fields: tuple[str, ...] = ()
    names: FieldNames = FieldNames()
    request_id: str | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class PartialAnswer(msgspec.Struct, kw_only=True):
    """Present when ``timeout_ms`` cut the call short."""

    partial: bool | UnsetType = UNSET
    unscored: list[int] | UnsetType = UNSET
    """Indices of the documents without a score."""


class Dialect(ABC):
    """Base of the codecs."""

    name: ClassVar[str]
    title: ClassVar[str]
    reads: ClassVar[tuple[str, str]] = ("documents", "")
    """The key that tells this dialect's bodies, and the JSON type of its value ("" for any)."""
    names: ClassVar[FieldNames] = FieldNames()
    request_type: ClassVar[Any]
    """The msgspec struct of the body, or a tuple of those that are possible."""
    answer_type: ClassVar[Any]
    """The struct of the answer, a list of structs, or a tuple of what it may be."""

    def can_read(self, keys: Keys) -> bool:
        """Whether a body with these keys is one of this dialect's."""
        key, kind = self.reads
        return key in keys and kind in ("", keys[key])

    def parse(self, body: bytes, keys: Keys, view: RequestView) -> ParsedCall:
        """The call, or ``InvalidRequestError`` with the path of the field."""
        type_ = self.body_type(keys)
        fields = read(body, type_)
        unknown = tuple(sorted(keys.keys() - set(type_.__struct_encode_fields__)))
        return ParsedCall(self.call(fields, view), unknown, self.names_of(fields), fields.request_id)

    def body_type(self, keys: Keys) -> Any:
        return self.request_type

    def names_of(self, body: Any) -> FieldNames:
        return self.names

    @abstractmethod
    def call(self, body: Any, view: RequestView) -> RerankCall:
        """From the fields of ``request_type``."""

    @abstractmethod
    def render(self, result: CallResult) -> Any:
        """The whole answer."""

    @abstractmethod
    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        """One entry of the answer, also sent alone when the caller streams."""

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return error_object(error, request_id)

    def error_status(self, error: EngineError, status: int) -> int:
        """``status`` is what the other dialects answer."""
        return status

    def headers(self, result: CallResult) -> dict[str, str]:
        return {}


def usage_of(result: CallResult) -> Usage:
    return Usage(result.prompt_tokens, result.prompt_tokens)


def partial_of(result: CallResult) -> dict[str, Any]:
    """For ``PartialAnswer``."""
    return {"partial": True, "unscored": result.unscored} if result.unscored else {}


def document_object(index: int, call: RerankCall, **more: Any) -> dict[str, Any]:
    """The document as most clients read one: an object with its text, and what the caller's own object held."""
    source = call.sources[index] if call.sources else None
    text = {} if source and isinstance(source.get("text"), str) else {"text": call.documents[index]}
    return {**(source or {}), **text, **more}


def search_units(result: CallResult) -> int:
    """Cohere counts one unit for each hundred documents of a query."""
    return -(-result.call.num_pairs // 100)
