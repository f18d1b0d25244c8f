"""What every codec offers, and what it is given.

A codec is a small value with three duties: ``parse`` turns a body into a ``RerankCall``, ``render`` turns the finished
call into the answer, ``render_error`` gives errors the shape that its clients read. Its structs say which fields go in
and out, and describe them in /openapi.json. Its class attributes say which requests are meant for it. Nothing else in
the server knows one dialect from another: adding one is one file in this folder, which ``dialect_registry.py`` finds,
and one golden file, which ``python -m tests.serve.write_golden NAME`` writes for review.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import EllipsisType, MappingProxyType
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from engine.entrypoints.serve.dialects.body import Keys, read
from engine.entrypoints.serve.errors import error_object
from engine.errors import EngineError, FieldPath
from engine.request import RerankCall
from engine.scoring.result_assembler import PairScore


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """A finished call, as the codec of a dialect renders it."""

    request_id: str
    model: str
    created: int
    call: RerankCall
    rankings: list[list[PairScore]]
    """For each query that is ranked its documents: best first, ties by index, cut to ``top_n`` and ``min_score``."""
    in_order: list[PairScore]
    """Every scored document, in input order, query by query."""
    errors: dict[int, EngineError] = field(default_factory=dict)
    """Errors of results that failed, by number (``RerankCall.position``)."""
    unscored: list[int] = field(default_factory=list)
    """Numbers of the results that the call's own deadline left without a score."""
    prompt_tokens: int = 0
    computed_tokens: int = 0
    num_steps: int = 0
    truncated_documents: int = 0
    unfamiliar_documents: int = 0
    encode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0

    @property
    def pairs(self) -> list[PairScore]:
        """The ranking of a call with one query."""
        return self.rankings[0]


@dataclass(frozen=True, slots=True)
class RequestView:
    """The facts of a request that a codec may know beyond the body."""

    path: str
    headers: Mapping[str, str]
    default_model: str = ""
    caller: str = ""
    label_tokens: tuple[int, ...] = ()
    """Ids of the model's "yes" and "no", where it has such tokens."""
    auto_truncate: bool = True
    """Whether over-long texts of a body that says nothing about them are cut."""


TextPath = tuple[str | int | EllipsisType, ...]
"""Keys and indices from the outside of a body to a text; ``...`` stands for the number of the text."""


@dataclass(frozen=True, slots=True)
class TextPaths:
    """The places of a body's query and documents: errors name the caller's fields."""

    query: TextPath = ("query",)
    document: TextPath = ("documents", ...)

    def error_located(self, error: EngineError) -> EngineError:
        """The error about the field that the caller sent."""
        path = self.located(error.path)
        return error if path == error.path else error.at(path)

    def located(self, path: FieldPath) -> FieldPath:
        """A field of the ``RerankCall`` as the caller's body has it; other fields stay what they are."""
        match path:
            case ("query", *inside):
                return *_numbered(self.query, 0), *inside
            case ("queries", int(number), *inside):
                return *_numbered(self.query, number), *inside
            case ("documents" | "prompts", int(number), *inside):
                return *_numbered(self.document, number), *inside
            case ("instructions", int(number), *inside):  # of one document: it stands in the document's own object
                return *_numbered(self.document, number), "instruction", *inside
        return path


def _numbered(path: TextPath, number: int) -> FieldPath:
    return tuple(number if part is ... else part for part in path)


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """The call that a codec made of a body."""

    call: RerankCall
    unknown_fields: tuple[str, ...] = ()
    """Keys of the body that no field has."""
    text_paths: TextPaths = TextPaths()
    request_id: str | None = None
    """The id that the body asks its answer to have."""


class Usage(msgspec.Struct):
    """Tokens of the call, in the form of rerank servers."""

    prompt_tokens: int
    total_tokens: int


class FullUsage(msgspec.Struct):
    """Tokens of the call, in OpenAI's form, of which some clients want every field."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class PartialAnswer(msgspec.Struct, kw_only=True):
    """Fields that are present when ``timeout_ms`` cut the call short."""

    partial: bool | UnsetType = UNSET
    unscored: list[int] | UnsetType = UNSET
    """Indices of the documents without a score."""


Task = Literal["rerank", "score", "prompts"]
"""Which bodies the paths of a dialect take. ``rerank`` and ``score``: those of every dialect with the same task, since
gateways rewrite paths. ``prompts``: its own only. ``/invocations`` takes the bodies of all dialects."""


class Dialect(ABC):
    """Base of the codecs. A class with a ``name`` of its own is a dialect; one without is a base of others."""

    name: ClassVar[str]
    """What ``--dialect``, ``?dialect=``, the metrics and the golden file call it."""
    title: ClassVar[str]
    """The name for people, in docs/compatibility.md."""
    aliases: ClassVar[tuple[str, ...]] = ()
    """Other names that it can be chosen by. Not inherited."""
    choosable: ClassVar[bool] = True
    """Whether it can be chosen by name. Bodies of one that cannot are always its own, whatever else is chosen."""
    task: ClassVar[Task] = "rerank"
    paths: ClassVar[Mapping[str, str]] = {}
    """The HTTP paths that belong to it, each with its line in /openapi.json. Not inherited."""
    body_keys: ClassVar[tuple[str, ...]] = ("documents", "!queries")
    """What it can read: rules about the keys of the body, all of which must hold (``matches``)."""
    recognised_by: ClassVar[tuple[str, ...]] = ()
    """What makes a body nobody else's, where that is more than ``body_keys``."""
    recognised_by_header: ClassVar[str] = ""
    """A header, in lower case, that such a request carries as well."""
    user_agents: ClassVar[tuple[str, ...]] = ()
    """How the ``User-Agent`` of its own SDKs begins, whose bodies are for it whatever else they hold. Not inherited."""
    precedence: ClassVar[int | None] = None
    """Bodies are shown to the dialects in this order, lowest first. None: a body alone never means this dialect, since
    others send the same one; it answers on its paths and where it is chosen. Not inherited."""
    is_shared: ClassVar[bool] = False
    """Clients of several APIs get its answers, so its errors have a field more (``errors.beside``). Not inherited."""
    text_paths: ClassVar[TextPaths] = TextPaths()
    """Where its body has the texts. Errors name these fields, and the golden file starts from them."""
    probabilities: ClassVar[bool] = False
    """Whether its clients expect scores in 0..1, also of a model whose own score is the logit."""
    request_type: ClassVar[Any]
    """The msgspec struct of the body, or a tuple of those that are possible."""
    answer_type: ClassVar[Any]
    """The struct of the answer, a list of structs, or a tuple of what it may be."""

    def __init_subclass__(cls) -> None:
        """What makes a request one dialect's is nobody else's: a dialect that builds on another does not inherit it."""
        super().__init_subclass__()
        for attribute in ("aliases", "paths", "precedence", "user_agents", "is_shared"):
            if attribute not in vars(cls):
                setattr(cls, attribute, getattr(Dialect, attribute))

    def can_read(self, keys: Keys) -> bool:
        """Whether a body with these keys can be one of this dialect's."""
        return matches(keys, self.body_keys)

    def recognises(self, keys: Keys, headers: Mapping[str, str] = MappingProxyType({})) -> bool:
        """Whether a request with these keys in its body, and these headers, is for this dialect as it stands."""
        if self.user_agents and headers.get("user-agent", "").startswith(self.user_agents):
            return self.can_read(keys)
        by_header = not self.recognised_by_header or self.recognised_by_header in headers
        return by_header and matches(keys, self.recognised_by or self.body_keys)

    def parse(self, body: bytes, keys: Keys, view: RequestView) -> ParsedCall:
        """The call that a body asks for. Raises ``InvalidRequestError`` about the field that is wrong."""
        type_ = self.body_type(keys)
        fields = read(body, type_)
        unknown = tuple(sorted(keys.keys() - set(type_.__struct_encode_fields__)))
        return ParsedCall(self.to_call(fields, view), unknown, self.paths_of(fields), fields.request_id)

    def body_type(self, keys: Keys) -> Any:
        """The struct of a body with these keys, where ``request_type`` has several."""
        return self.request_type

    def paths_of(self, body: Any) -> TextPaths:
        """The places of this body's texts: ``text_paths``, unless that depends on the body."""
        return self.text_paths

    @abstractmethod
    def to_call(self, body: Any, view: RequestView) -> RerankCall:
        """The call, from a body that was read as ``request_type``. Raises ``InvalidRequestError``."""

    @abstractmethod
    def render(self, result: CallResult) -> Any:
        """The whole answer, an ``answer_type``."""

    @abstractmethod
    def render_pair(self, pair: PairScore, call: RerankCall) -> Any:
        """One entry of the answer, also sent alone when the caller streams."""

    def render_error(self, error: EngineError, request_id: str) -> Any:
        """The error in the shape that clients of this dialect read."""
        return error_object(error, request_id)

    def error_status(self, error: EngineError, status: int) -> int:
        """The HTTP status of an error; ``status`` is what the other dialects answer."""
        return status

    def headers(self, result: CallResult) -> dict[str, str]:
        """Headers of the answer."""
        return {}


def matches(keys: Keys, rules: tuple[str, ...]) -> bool:
    """Whether all rules hold: ``top_k`` is a key that is there, ``input:object`` one whose value has that JSON type,
    ``text_1|text_2`` one of several, ``!query`` one that is not there."""
    return all(not _is_there(keys, rule[1:]) if rule.startswith("!") else _is_there(keys, rule) for rule in rules)


def _is_there(keys: Keys, rule: str) -> bool:
    for option in rule.split("|"):
        key, _, kind = option.partition(":")
        if key in keys and kind in ("", keys[key]):
            return True
    return False


def usage_of(result: CallResult) -> Usage:
    """The tokens of the call."""
    return Usage(result.prompt_tokens, result.prompt_tokens)


def full_usage_of(result: CallResult) -> FullUsage:
    """The tokens of the call, with none that were written."""
    return FullUsage(result.prompt_tokens, result.prompt_tokens)


def cohere_meta(result: CallResult, version: str) -> dict[str, Any]:
    """``meta`` of Cohere's answers: the version of the API, and what the call counts in each of its units."""
    tokens = {"input_tokens": result.prompt_tokens, "output_tokens": 0}
    billed = {"search_units": search_units(result), "total_tokens": result.prompt_tokens}
    return {"api_version": {"version": version}, "billed_units": billed, "tokens": tokens}


def partial_of(result: CallResult) -> dict[str, Any]:
    """The fields of ``PartialAnswer``, as keyword arguments; none where the call was finished in time."""
    return {"partial": True, "unscored": result.unscored} if result.unscored else {}


def document_object(index: int, call: RerankCall, **more: Any) -> dict[str, Any]:
    """The document as most clients read one: an object with its text, and what the caller's own object held."""
    source = call.sources[index] if call.sources else None
    text = {} if source and isinstance(source.get("text"), str) else {"text": call.documents[index]}
    return {**(source or {}), **text, **more}


def search_units(result: CallResult) -> int:
    """Cohere's billing unit: one for each hundred documents of a query."""
    return -(-result.call.num_pairs // 100)
