"""One row of the table of families."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.checkpoint.families import FAMILIES as RESOLVED
from engine.checkpoint.families import RANKERS
from tests.families.oracles import Oracle, logits_of_ids, pair_logits
from tests.support.random_models import save_random


@dataclass(frozen=True)
class Family:
    """One row of the table of families."""

    model_type: str
    architecture: str
    tokenizer: str
    models: str
    """Published rerankers of this family."""
    scoring: str
    """Prompt and head, for people."""
    ids: Callable[..., list[list[int]]]
    shapes: dict[str, dict[str, Any]]
    name: str | None = None
    """Published name, where it is what recognises an original checkpoint."""
    tokens: tuple[str, ...] = ()
    """Empty: a classification head."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of LLM that such a checkpoint needs."""
    write: Callable[..., Path] = save_random
    oracle: Oracle | None = None
    """The written formula, for a network that transformers does not have."""

    @property
    def body(self) -> str:
        """As architectures begin."""
        if self.architecture in RANKERS:
            return RESOLVED[self.model_type].body
        return (
            self.architecture.removesuffix("ForSequenceClassification")
            .removesuffix("ForCausalLM")
            .removesuffix("Model")
        )

    def make(self, folder: Path, shape: str) -> Path:
        return self.write(folder, self.architecture, self.tokenizer, name=self.name, **self.shapes[shape])

    def expected(self, folder: Path, query: str, documents: Sequence[str]) -> list[float]:
        if self.oracle is not None:
            return self.oracle(folder, query, documents)
        if not self.tokens:
            return pair_logits(folder, query, documents)
        return logits_of_ids(folder, self.ids(folder, query, documents), self.tokens)
