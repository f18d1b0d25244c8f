"""Loading a model for a command that works offline, and saying in one line which one it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.entrypoints.terminal import tell

if TYPE_CHECKING:
    from engine import LLM

PACKAGED = "the small English reranker of the package"


def announce_model(values: Mapping[str, Any], how_to_name: str) -> None:
    """On standard error, before anything slow: the model, and why it is this one."""
    if values.get("model"):
        tell(f"using {values['model']}")
    else:
        tell(f"using {PACKAGED}, as no model was given ({how_to_name})")


def load_model(values: Mapping[str, Any], *, log_level: str = "warning") -> LLM:
    """``values`` as ``flags`` collects them. Imports torch."""
    from engine.entrypoints.log_setup import set_up_logging

    set_up_logging(log_level)
    from engine import LLM

    return LLM(**values)
