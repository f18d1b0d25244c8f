"""Tables of what is known about models: families by ``model_type``, and published rerankers by name.

A new family or reranker is a new entry here (and, for a family, a file in ``backends/models/``), not a new branch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from engine.model_spec import Activation, HeadKind, Pooling


@dataclass(frozen=True, kw_only=True)
class Family:
    """Network bodies that share a ``model_type``."""

    body: str
    """Architectures are this word and one of ``TASKS``."""
    causal: bool
    pooling: Pooling
    head_tensors: tuple[str, ...]
    """Where a classification checkpoint keeps the last matrix of its head."""
    position_offset: int = 0
    """Positions that ``max_position_embeddings`` counts and no token can have."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A published reranker that is stored as a language model: how its head and its prompt are made."""

    name: str
    model_type: str
    pattern: re.Pattern[str]
    """Found in the model's name or files (``CheckpointFiles.evidence``)."""
    method: HeadKind
    tokens: tuple[str, ...]
    template: str
    activation: Activation = "sigmoid"


def _decoder(body: str) -> Family:
    return Family(body=body, causal=True, pooling="last", head_tensors=("score.weight",))


def _encoder(body: str, *head_tensors: str, position_offset: int = 0) -> Family:
    return Family(body=body, causal=False, pooling="cls", head_tensors=head_tensors, position_offset=position_offset)


FAMILIES: dict[str, Family] = {
    "qwen3": _decoder("Qwen3"),
    "qwen2": _decoder("Qwen2"),
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral"),
    "gemma": _decoder("Gemma"),
    "bert": _encoder("Bert", "classifier.weight"),
    "roberta": _encoder("Roberta", "classifier.out_proj.weight", position_offset=2),
    "xlm-roberta": _encoder("XLMRoberta", "classifier.out_proj.weight", position_offset=2),
    "modernbert": _encoder("ModernBert", "classifier.weight"),
    "deberta-v2": _encoder("DebertaV2", "classifier.weight"),
    "new": _encoder("New", "classifier.weight"),
    "gte": _encoder("Gte", "classifier.weight"),
}

# The first match counts, so the narrow ones come before the wide ones.
RECIPES: tuple[Recipe, ...] = (
    Recipe(
        name="zerank-2",
        model_type="qwen3",
        pattern=re.compile(r"zerank", re.IGNORECASE),
        method="no_post_processing",
        tokens=("Yes",),
        template="zerank-2",
        activation="identity",
    ),
    Recipe(
        name="Qwen3-Reranker",
        model_type="qwen3",
        pattern=re.compile(r'rerank|text-ranking|answer can only be "yes" or "no"', re.IGNORECASE),
        method="from_2_way_softmax",
        tokens=("no", "yes"),
        template="qwen3-reranker",
    ),
    Recipe(
        name="mxbai-rerank-v2",
        model_type="qwen2",
        pattern=re.compile(r"mxbai-rerank", re.IGNORECASE),
        method="from_2_way_softmax",
        tokens=("0", "1"),
        template="mxbai-rerank-v2",
    ),
    Recipe(
        name="bge-reranker-v2-gemma",
        model_type="gemma",
        pattern=re.compile(r"bge-reranker-v2-gemma", re.IGNORECASE),
        method="no_post_processing",
        tokens=("Yes",),
        template="bge-reranker-v2-gemma",
    ),
)

Task = Literal["ForCausalLM", "ForSequenceClassification", "ForMaskedLM", "Model"]
TASKS: tuple[Task, ...] = ("ForCausalLM", "ForSequenceClassification", "ForMaskedLM", "Model")
"""How an architecture's name ends. The last two have no head: they embed."""


def find_recipe(model_type: str, evidence: dict[str, str]) -> tuple[Recipe, str] | None:
    """The published reranker that the evidence speaks of, and where it does."""
    for recipe in RECIPES:
        if recipe.model_type != model_type:
            continue
        for place, text in evidence.items():
            if recipe.pattern.search(text):
                return recipe, place
    return None


def supported() -> str:
    """The families, for an error message."""
    decoders = ", ".join(f"{family.body} ({name})" for name, family in FAMILIES.items() if family.causal)
    encoders = ", ".join(f"{family.body} ({name})" for name, family in FAMILIES.items() if not family.causal)
    return (
        f"{decoders} as ForCausalLM, ForSequenceClassification or Model; "
        f"{encoders} as ForSequenceClassification or Model"
    )
