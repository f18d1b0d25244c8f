"""Which dialect a request speaks, in two questions.

*Who reads the body?* Its keys decide, because gateways rewrite routes: ``texts`` is TEI, ``passages`` is NIM, and so on
in the order of ``precedence``. *Who answers?* An explicit choice first (``?dialect=``, a header), then a route that
belongs to one dialect, then whoever read the body; where many dialects send the same body, ``--dialect``, and at last
the common object. A dialect that is chosen and can read the body does both, with its own defaults.

What each dialect claims stands in its class; here is only the order of the questions.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from engine.entrypoints.serve.dialect_registry import BY_BODY, DIALECTS, by_name
from engine.entrypoints.serve.dialects.base import Dialect
from engine.entrypoints.serve.dialects.fields import Keys
from engine.entrypoints.serve.dialects.rerank import RerankDialect

COMMON = DIALECTS[RerankDialect.name]
"""The dialect of the common object: its body is sent by many clients, and its answer is read by all of them."""


@dataclass(frozen=True, slots=True)
class Speakers:
    """Who reads the body and who answers; mostly one and the same."""

    reader: Dialect
    answerer: Dialect

    @classmethod
    def only(cls, dialect: Dialect) -> Speakers:
        """One dialect that reads and answers."""
        return cls(dialect, dialect)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What caller and operator said about the dialect outside of the body."""

    chosen: str | None = None
    """The dialect that the caller chose by ``?dialect=`` or a header."""
    default: str | None = None
    """The dialect that the operator chose by ``--dialect``."""
    headers: Container[str] = ()
    """Names of the request's headers, in lower case."""


def speakers_on(owner: Dialect, keys: Keys, wishes: Wishes) -> Speakers:
    """Who reads and answers a body on a path of ``owner``.

    Raises ``InvalidRequestError`` for a chosen dialect that does not exist.
    """
    if owner.task == "rerank":
        return _rerank_speakers(keys, wishes, owner)
    if owner.task == "score":
        return Speakers.only(_told(keys, wishes, task="score") or owner)
    return Speakers.only(owner)


def speakers_anywhere(keys: Keys, wishes: Wishes) -> Speakers:
    """Who reads and answers a body on the one path that takes all of them, as SageMaker, vLLM and TEI have it.

    Raises ``InvalidRequestError`` for a chosen dialect that does not exist.
    """
    found = _told(keys, wishes)
    return _rerank_speakers(keys, wishes, COMMON) if found is None or found.choosable else Speakers.only(found)


def _told(keys: Keys, wishes: Wishes, task: str | None = None) -> Dialect | None:
    """The dialect that the body shows."""
    candidates = (dialect for dialect in BY_BODY if task in (None, dialect.task))
    return next((dialect for dialect in candidates if dialect.is_told(keys, wishes.headers)), None)


def _rerank_speakers(keys: Keys, wishes: Wishes, owner: Dialect) -> Speakers:
    wanted = by_name(wishes.chosen) if wishes.chosen is not None else None
    usual = by_name(wishes.default) if wishes.default else COMMON
    told = _told(keys, wishes, task="rerank")
    if told is not None and not told.choosable:
        return Speakers.only(told)
    for dialect in (wanted, owner, told):  # the common one says nothing, neither by its path nor by its body
        if dialect is not None and dialect.can_read(keys) and (dialect is wanted or dialect is not COMMON):
            return Speakers(dialect, wanted or dialect)
    if not COMMON.can_read(keys):  # nobody can read it: the error is for whoever was most likely meant
        return Speakers.only(wanted or (usual if owner is COMMON else owner))
    return Speakers(usual if usual.can_read(keys) else COMMON, wanted or usual)
