"""Loading a model for a command that works offline, and saying in one line which one it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.entrypoints.terminal import tell
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine import LLM

PACKAGED = "the small English reranker of the package"


def announce_model(values: Mapping[str, Any]) -> None:
    """Says on standard error, before anything slow: the model, and why it is this one."""
    if values.get("model"):
        tell(f"using {values['model']}")
    else:
        tell(f"using {PACKAGED}, as no model was given (--model MODEL uses another)")


def check_query(query: str) -> None:
    """A text of the command line that can be a query. Raises ``ConfigError`` for an empty one."""
    check_text(query, "The query")
    if not query.strip():
        raise ConfigError("The query is empty.")


def check_text(text: str, what: str) -> None:
    """Raises ``ConfigError`` for bytes that are no UTF-8; they arrive as halves of surrogate pairs."""
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError(f"{what} is not UTF-8 text.")


def load_model(values: Mapping[str, Any], *, log_level: str = "warning", own_texts: bool = False) -> LLM:
    """``values`` as ``flags`` collects them. Imports torch.

    ``own_texts``: the command makes the texts itself, of random tokens or of many languages, so nobody needs to be told
    that a tokenizer hardly knows some of them.
    """
    from engine.entrypoints.settings.log_setup import set_up_logging

    set_up_logging(log_level)
    if own_texts:
        logging.getLogger("engine.inputs.unfamiliar").setLevel(logging.ERROR)
    from engine import LLM

    return LLM(**values)
