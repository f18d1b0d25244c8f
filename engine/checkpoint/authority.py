"""Who decides what a checkpoint is: the one place where the order of authority is written down.

Head, prompt, range of the score and length are decided one by one, each by the strongest statement about it:

1. ``FLAG``: what the user says (``--hf-overrides``, ``--score-template``, ``--max-model-len``);
2. ``FILES``: what the checkpoint's own files state (the modules of sentence-transformers, saved prompts, a chat
   template for the roles query and document, keys of config.json, the tensors of the head);
3. ``PUBLISHED``: the table of published models, matched by an exact id (``published.toml``);
4. ``USUAL``: what everybody does where nothing is said and nothing else is possible, such as the sigmoid of one logit.

Nothing is decided by a part of a name. Where even the last has no answer, the load stops and says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Authority(IntEnum):
    """The strongest first."""

    FLAG = 1
    FILES = 2
    PUBLISHED = 3
    USUAL = 4


@dataclass(frozen=True)
class Statement(Generic[T]):
    """One answer to one question, and who gives it."""

    value: T
    authority: Authority
    origin: str
    """Where it stands, as the log says it: ``1_LogitScore/config.json``, ``--score-template``."""


def strongest(*statements: Statement[T] | None) -> Statement[T] | None:
    """The statement of the highest authority; of equals the first. None where nobody says anything."""
    made = [statement for statement in statements if statement is not None]
    return min(made, key=lambda statement: statement.authority, default=None)
