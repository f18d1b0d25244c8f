"""What every codec offers, and what it is given.

A codec is a small value with three duties: ``parse`` turns a body into a ``RerankCall``, ``render`` turns the finished
call into the answer, ``render_error`` gives errors the shape that its clients read. Nothing else in the server knows
one dialect from another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from engine.entrypoints.collect import PairScore
from engine.entrypoints.serve.errors import error_object
from engine.errors import EngineError
from engine.request import RerankCall


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """A finished call."""

    request_id: str
    model: str
    created: int
    call: RerankCall
    pairs: list[PairScore]
    """Best first, ties by index, cut to ``top_n`` and ``min_score``."""
    in_order: list[PairScore]
    """Every scored pair, in input order."""
    errors: dict[int, EngineError] = field(default_factory=dict)
    prompt_tokens: int = 0
    computed_tokens: int = 0
    truncated_documents: int = 0
    encode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RequestView:
    """What a codec may know beyond the body."""

    path: str
    headers: Mapping[str, str]
    default_model: str
    caller: str = ""


@dataclass(frozen=True, slots=True)
class ParsedCall:
    call: RerankCall
    unknown_fields: tuple[str, ...] = ()


class Dialect(ABC):
    """Base of the codecs; the answers of this class are the ones most clients share."""

    name: ClassVar[str]
    request_type: ClassVar[type[Any]]
    """The msgspec struct of the body: it also describes the route in /openapi.json."""

    @abstractmethod
    def parse(self, body: bytes, keys: frozenset[str], view: RequestView) -> ParsedCall:
        """The call, or ``InvalidRequestError`` with the path of the field."""

    @abstractmethod
    def render(self, result: CallResult) -> Any:
        """The whole answer."""

    @abstractmethod
    def render_pair(self, pair: PairScore, call: RerankCall) -> dict[str, Any]:
        """One entry of the answer, also sent alone when the caller streams."""

    def render_error(self, error: EngineError, request_id: str) -> Any:
        return error_object(error, request_id)

    def headers(self, result: CallResult) -> dict[str, str]:
        return {}
