"""The line of the log that says what a checkpoint was taken for, and who said so."""

from __future__ import annotations

from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.head import Head
from engine.checkpoint.prompt import Prompt


def decision(checkpoint: Checkpoint, head: Head, prompt: Prompt, max_model_len: int, stamp: str) -> str:
    """One line for the log: what was decided, and who said so."""
    spec, identity = head.spec, checkpoint.identity
    how = {
        "from_2_way_softmax": "head = lm_head[{1!r}] - lm_head[{0!r}]",
        "no_post_processing": "head = lm_head[{0!r}]",
        "expectation": "head = the position among " + ", ".join(repr(token) for token in spec.tokens) + " as expected",
        "classifier": f"head = its own classifier of {spec.stored_rows} label(s)",
        "modules": f"head = {spec.pooling} pooling and {len(spec.modules)} module(s)",
        "embedding": f"no head, query and document are embedded apart ({spec.pooling} pooling)",
        "listwise": "documents are read together, and the projector's vectors are compared",
        "late_interaction": "query and document are embedded apart, and vectors of their tokens are compared",
    }[spec.kind].format(*spec.tokens)
    ids = f" (ids {', '.join(map(str, spec.token_ids))})" if spec.token_ids else ""
    known = ""
    if identity is not None:
        known = f", {'made from' if identity.is_base else 'known as'} {identity.id} by {identity.origin}"
    scaled = f"(logit - {spec.logit_mean:g}) / {spec.logit_sigma:g}"
    mask = ", every token sees all of its pair" if checkpoint.family.decoder and not checkpoint.causal else ""
    known += ", computed by transformers itself (--model-impl transformers)" if checkpoint.by_library else ""
    calibrated = f" of {scaled}" if (spec.logit_mean, spec.logit_sigma) != (0.0, 1.0) else ""
    plain = "pairs by the tokenizer" if prompt.use_sep_token else "query and document joined"
    own = {"embedding": "the texts alone", "listwise": "many documents", "late_interaction": "the texts, marked"}
    text = prompt.template or own.get(spec.kind, plain)
    by = f" by {prompt.origin}" if prompt.origin else ""
    return (
        f"{checkpoint.label}: {checkpoint.architecture}{known}{mask}; {how}{ids} by {head.origin}; "
        f"{spec.activation}{calibrated} by {head.range_origin}; prompt {text}{by}; up to {max_model_len} tokens"
        f"{f'; fingerprint {stamp}' if stamp else ''}."
    )
