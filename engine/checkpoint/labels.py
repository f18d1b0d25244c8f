"""A head with two labels becomes one value: the row that says relevant minus the row that says it is not.

The softmax over two logits gives the second label the probability sigmoid(l1 - l0), so nothing is lost. Which of the
rows means relevant is read from ``id2label``, never assumed of names that say something else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.errors import ConfigError

logger = logging.getLogger(__name__)

POSITIVE = frozenset({"yes", "true", "1", "relevant", "positive", "pos", "match", "entailment", "duplicate"})
NEGATIVE = frozenset(
    {"no", "false", "0", "irrelevant", "not_relevant", "not relevant", "negative", "neg", "non_relevant", "no_match"}
    | {"not_entailment", "contradiction", "not_duplicate", "not duplicate", "non-relevant", "nonrelevant"}
)
_NAMELESS = {0: "label_0", 1: "label_1"}


def rows_of_labels(checkpoint: Checkpoint, num_labels: int) -> tuple[int, ...]:
    """``HeadSpec.label_rows`` of a stored head: empty for one label, (negative, positive) for two.

    (positive,) where each label is judged by itself (``problem_type`` multi_label_classification). Raises
    ``ConfigError`` where no single value can be made of the labels.
    """
    if num_labels == 1:
        return ()
    names = _names(checkpoint.config.get("id2label"))
    if num_labels == 2:
        _check_both_ways(checkpoint, names)
    if num_labels == 2 and (rows := _negative_and_positive(names)):
        rows = rows[1:] if _judged_apart(checkpoint) else rows
        logger.warning("%s: %s", checkpoint.label, _sentence(rows, names))
        return rows
    labels = ", ".join(names.get(i, f"label {i}") for i in range(num_labels))
    if num_labels == 2:
        raise ConfigError(
            f"{checkpoint.label} has two labels, {labels}, and config.json does not say which of them means relevant. "
            'Say it with --hf-overrides \'{"id2label": {"0": "no", "1": "yes"}}\' (row 1 means relevant), or '
            '\'{"id2label": {"0": "yes", "1": "no"}}\' (row 0 does).',
            param="hf_overrides.id2label",
        )
    raise ConfigError(
        f"{checkpoint.label} gives {num_labels} values a pair ({labels}), and a score is one value. Serve a checkpoint "
        "with one label, or with two that say yes and no.",
        param="model",
    )


def _names(id2label: Any) -> dict[int, str]:
    if not isinstance(id2label, Mapping):
        return {}
    return {int(key): str(name) for key, name in id2label.items() if str(key).isdigit()}


def _check_both_ways(checkpoint: Checkpoint, names: Mapping[int, str]) -> None:
    """``label2id`` says the same as ``id2label``; a flag for the latter decides."""
    rows = checkpoint.config.get("label2id")
    if "id2label" in checkpoint.overrides or not isinstance(rows, Mapping):
        return
    for number, name in names.items():
        if name in rows and rows[name] != number:
            raise ConfigError(
                f"config.json of {checkpoint.label} contradicts itself: by id2label row {number} means {name}, by "
                f"label2id row {rows[name]} does. Correct one of the two, or decide with --hf-overrides "
                f'\'{{"id2label": {{"0": "no", "1": "yes"}}}}\' (row 1 means relevant).',
                param="hf_overrides.id2label",
            )


def _negative_and_positive(names: Mapping[int, str]) -> tuple[int, ...]:
    first, second = (names.get(i, _NAMELESS[i]).strip().lower() for i in (0, 1))
    if (first, second) == (_NAMELESS[0], _NAMELESS[1]) or (first in NEGATIVE and second in POSITIVE):
        return 0, 1
    return (1, 0) if first in POSITIVE and second in NEGATIVE else ()


def _judged_apart(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.get("problem_type") == "multi_label_classification"


def _sentence(rows: tuple[int, ...], names: Mapping[int, str]) -> str:
    positive = names.get(rows[-1], f"label {rows[-1]}")
    how = (
        f"row {rows[1]} minus row {rows[0]}"
        if len(rows) == 2
        else f"row {rows[0]} alone, as each label is judged apart"
    )
    return f"its head has two labels, and became one while loading: {how}, so the score speaks of {positive!r}."
