"""The kinds of models beside plain cross-encoders: what each is compared with, in which shapes, and how closely.

``docs/models.md`` has them as its second table, which ``python -m tests.families.table`` writes from here. The shapes
are the names of the tests' own cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.families import (
    test_bidirectional,
    test_chains,
    test_embedding,
    test_jina_m0,
    test_late_interaction,
    test_library_model,
    test_listwise,
    test_pictures,
)

HEAD = "| kind | checked against | shapes tested | largest difference |\n|---|---|---|---|\n"
BEGIN, END = "<!-- kinds: python -m tests.families.table -->\n", "<!-- /kinds -->"
PICTURES = "query, document and both; one and two pictures with and without text; cut by steps"


@dataclass(frozen=True)
class Kind:
    """One row."""

    name: str
    against: str
    shapes: Iterable[str]
    bound: str
    test: Callable[..., None]
    """Where the comparison is made."""


KINDS = (
    Kind(
        "pictures (`qwen3_vl`)",
        "Qwen3VLForConditionalGeneration and its picture processor",
        [PICTURES],
        "1e-5 of a probability, alone and together 1e-6",
        test_pictures.test_scores_are_those_of_transformers,
    ),
    Kind(
        "pictures (`qwen2_vl`)",
        "Qwen2VLModel, its picture processor, and jina-reranker-m0's head and prompt as published",
        [PICTURES, *test_jina_m0.LAYOUTS],
        "1e-5 of a probability, alone and together 1e-6",
        test_jina_m0.test_scores_are_those_of_transformers,
    ),
    Kind(
        "listwise (`qwen3`)",
        "the published prompt and formulas on transformers",
        ["one block", "blocks of three", "chunked in steps", "windows in some layers"],
        "1e-5 of a cosine, beside other calls 1e-6",
        test_listwise.test_scores_are_those_of_the_published_code,
    ),
    Kind(
        "late interaction (`bert`, `modernbert`)",
        "sentence-transformers 6.2",
        test_late_interaction.LAYOUTS,
        "1e-5 of the score",
        test_late_interaction.test_scores_are_those_of_sentence_transformers,
    ),
    Kind(
        "decoders that see both ways (`is_causal: false`)",
        "transformers, with a mask that hides nothing",
        [f"{body}, one label" for body in test_bidirectional.BODIES] + ["two tokens of a language model"],
        "1e-4 of the logit, alone and together 1e-6 of a probability",
        test_bidirectional.test_a_classifier,
    ),
    Kind(
        "bi-encoders",
        "transformers, pooled by hand",
        test_embedding.CASES,
        "1e-5 of a cosine",
        test_embedding.test_cosines_are_those_of_transformers,
    ),
    Kind(
        "chains of sentence-transformers",
        "sentence-transformers",
        [*test_chains.CASES, *(f"bi-encoder: {name}" for name in test_chains.BI_ENCODERS)],
        "1e-5 of the score",
        test_chains.test_scores_are_those_of_the_library,
    ),
    Kind(
        "`--model-impl transformers`",
        "the class itself, a pair at a time",
        [name.removesuffix("ForSequenceClassification") for name in test_library_model.CASES],
        "1e-4 of the logit, alone and together 1e-6 of a probability",
        test_library_model.test_scores_are_those_of_the_library,
    ),
)


def render_kinds() -> str:
    """The table."""
    rows = [f"| {kind.name} | {kind.against} | {'; '.join(kind.shapes)} | {kind.bound} |\n" for kind in KINDS]
    return HEAD + "".join(rows)
