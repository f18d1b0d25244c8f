"""Which dialect a request speaks, in two questions.

*Who reads the body?* Its keys decide, because gateways rewrite routes: ``texts`` is TEI, ``passages`` is NIM, and so on
in the order of ``precedence``. *Who answers?* An explicit choice first (``?dialect=``, a header), then a route that
belongs to one dialect, then whoever read the body; where many dialects send the same body, ``--dialect``, and at last
the common object. A dialect that is chosen and can read the body does both, with its own defaults.

What each dialect claims stands in its class; here is only the order of the questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.entrypoints.serve.dialect_registry import BY_BODY, DIALECTS, by_name
from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.serve.dialects.body import Keys
from engine.entrypoints.serve.dialects.rerank import RerankDialect

COMMON = DIALECTS[RerankDialect.name]
"""The dialect of the common object: its body is sent by many clients, and its answer is read by all of them."""


@dataclass(frozen=True, slots=True)
class DialectChoice:
    """The dialects that read the body and that answer; mostly one and the same."""

    reader: Dialect
    answerer: Dialect

    @classmethod
    def only(cls, dialect: Dialect) -> DialectChoice:
        """One dialect that reads and answers."""
        return cls(dialect, dialect)


@dataclass(frozen=True, slots=True)
class DialectPreferences:
    """The wishes of caller and operator about the dialect, outside of the body."""

    chosen: str | None = None
    """The dialect that the caller chose by ``?dialect=`` or a header."""
    default: str | None = None
    """The dialect that the operator chose by ``--dialect``."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """The request's headers, by names in lower case."""


def choose_on_path(owner: Dialect, keys: Keys, preferences: DialectPreferences) -> DialectChoice:
    """Chooses the dialects that read and answer a body on a path of ``owner``.

    Raises ``InvalidRequestError`` for a chosen dialect that does not exist.
    """
    if owner.task == "rerank":
        return _choose_reranker(keys, preferences, owner)
    if owner.task == "score":
        return DialectChoice.only(_recognised(keys, preferences, task="score") or owner)
    return DialectChoice.only(owner)


def choose_anywhere(keys: Keys, preferences: DialectPreferences) -> DialectChoice:
    """Chooses the dialects of a body on the one path that takes all of them, as SageMaker, vLLM and TEI have it.

    Raises ``InvalidRequestError`` for a chosen dialect that does not exist.
    """
    found = _recognised(keys, preferences)
    return (
        _choose_reranker(keys, preferences, COMMON) if found is None or found.choosable else DialectChoice.only(found)
    )


def _recognised(keys: Keys, preferences: DialectPreferences, task: str | None = None) -> Dialect | None:
    """The dialect that the body shows."""
    candidates = (dialect for dialect in BY_BODY if task in (None, dialect.task))
    return next((dialect for dialect in candidates if dialect.recognises(keys, preferences.headers)), None)


def _choose_reranker(keys: Keys, preferences: DialectPreferences, owner: Dialect) -> DialectChoice:
    wanted = by_name(preferences.chosen) if preferences.chosen is not None else None
    usual = by_name(preferences.default) if preferences.default else COMMON
    recognised = _recognised(keys, preferences, task="rerank")
    for dialect in (wanted, owner, recognised):  # the common one says nothing, neither by its path nor by its body
        if dialect is not None and dialect.can_read(keys) and (dialect is wanted or dialect is not COMMON):
            return DialectChoice(dialect, wanted if wanted and dialect.choosable else dialect)
    if not COMMON.can_read(keys):  # nobody can read it: the error is for whoever was most likely meant
        return DialectChoice.only(wanted or (usual if owner is COMMON else owner))
    return DialectChoice(usual if usual.can_read(keys) else COMMON, wanted or usual)
