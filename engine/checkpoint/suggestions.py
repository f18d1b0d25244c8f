"""What to pass for a language model whose files do not say how it ranks: the likeliest cases, each with its flags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.published_models import Published, published_models

MAX_SUGGESTIONS = 3


def how_to_say_it(checkpoint: Checkpoint) -> str:
    """An error for people: what is missing, where it was looked for, and the flags for the three likeliest cases."""
    body, ending = checkpoint.family.body, checkpoint.family.language_model
    cases = [*_published_cases(body, ending), *_usual_cases(body)][:MAX_SUGGESTIONS]
    listed = " ".join(f"({number}) {case}" for number, case in enumerate(cases, 1))
    return (
        f"{checkpoint.label} is a language model ({body}{ending}), and nothing in its files says how it ranks: no "
        "modules.json, no saved prompt, no classifier_from_token in config.json; and neither its name nor README.md is "
        f"that of a published reranker. Say what it is. {listed}"
    )


def _published_cases(body: str, ending: str) -> Iterator[str]:
    """One for each answer that published models of this network give."""
    seen: set[tuple[str, ...]] = set()
    for model in published_models():
        if (
            f"{body}{ending}" not in model.architectures
            or not model.tokens
            or model.method
            or len(seen) == MAX_SUGGESTIONS - 1
        ):
            continue
        if model.tokens not in seen:
            seen.add(model.tokens)
            name = model.ids[0].rpartition("/")[2]
            yield f"Fine-tuned from {name}, with its prompt: {_flags(body, model)}."


def _usual_cases(body: str) -> Iterator[str]:
    two = {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"}
    one = {"classifier_from_token": ["Yes"], "method": "no_post_processing"}
    yield f"It answers with a token, by a prompt of its own: {_overrides(body, two)} --score-template FILE."
    yield f"The logit of one token counts: {_overrides(body, one)} --score-template FILE."
    yield f"It reads query and document without a prompt: {_overrides(body, two)} --score-template none."


def _flags(body: str, model: Published) -> str:
    keys: dict[str, Any] = {"classifier_from_token": list(model.tokens)}
    if model.template == "qwen3-reranker":
        return _overrides(body, keys | {"is_original_qwen3_reranker": True})
    return f"{_overrides(body, keys | {'method': model.head_kind})} --score-template {model.template}"


def _overrides(body: str, keys: dict[str, Any]) -> str:
    return f"--hf-overrides '{json.dumps({'architectures': [f'{body}ForSequenceClassification']} | keys)}'"
