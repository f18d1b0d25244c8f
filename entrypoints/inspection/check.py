"""How pairs become scores: prompt, tokens, cuts, logit and score, and the reference beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.entrypoints.inspection.prompt_view import Piece, PromptView
from engine.inputs.processor import InputProcessor
from engine.request import EncodedPair
from engine.scoring.activation import activate, logits_of

if TYPE_CHECKING:
    from engine import LLM
    from engine.backends.measure.reference_check import Reference

_NO_LIMIT = 10**9


@dataclass(frozen=True)
class CheckedPair:
    query: str
    document: str
    pieces: list[Piece]
    token_ids: list[int]
    tokens: list[str]
    num_uncut: int
    truncated_query: bool
    truncated_document: bool
    logit: float
    score: float
    reference_logit: float | None
    reference_score: float | None
    reference_ids_equal: bool | None
    """Whether transformers' tokenizer gives the same ids; None where nothing was compared."""

    @property
    def difference(self) -> float | None:
        return None if self.reference_logit is None else self.logit - self.reference_logit


@dataclass(frozen=True)
class CheckReport:
    model: str
    facts: Mapping[str, Any]
    reference: str
    """What it is, or why there is none."""
    pairs: list[CheckedPair]

    def as_json(self) -> dict[str, Any]:
        pairs = [asdict(pair) | {"difference": pair.difference} for pair in self.pairs]
        return {"model": self.model, **self.facts, "reference": self.reference, "pairs": pairs}


def check_pairs(
    llm: LLM,
    query: str,
    documents: Sequence[str],
    *,
    with_reference: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> CheckReport:
    """The pairs as one call of ``llm``, looked at from all sides. ``say`` is told what takes long before it does."""
    spec, config = llm.spec, llm.config.model
    processor = InputProcessor(spec, config)
    encoded = processor.encode([query], documents)
    uncut = InputProcessor(replace(spec, max_model_len=_NO_LIMIT), config).encode([query], documents)
    outputs = llm.score(query, list(documents), use_tqdm=False)
    if with_reference:
        say("running transformers on the same text")
    reference, description = _reference(llm, with_reference)
    logits = None if reference is None else logits_of(reference.values(encoded), spec.head)
    scores = None if logits is None else activate(logits, spec.head)
    view = PromptView(spec)
    pairs = []
    for i, (document, pair, whole, output) in enumerate(zip(documents, encoded, uncut, outputs, strict=True)):
        pairs.append(
            CheckedPair(
                query=query,
                document=document,
                pieces=view.pieces(pair.token_ids, whole.token_ids),
                token_ids=pair.token_ids.tolist(),
                tokens=view.tokens(pair.token_ids),
                num_uncut=len(whole.token_ids),
                truncated_query=pair.truncated_query,
                truncated_document=pair.truncated_document,
                logit=output.outputs.logit,
                score=output.outputs.score,
                reference_logit=None if logits is None else float(logits[i]),
                reference_score=None if scores is None else float(scores[i]),
                reference_ids_equal=_same_ids(reference, view, processor, query, document, whole),
            )
        )
    return CheckReport(spec.name, _facts(llm), description, pairs)


def _reference(llm: LLM, wanted: bool) -> tuple[Reference | None, str]:
    if not wanted:
        return None, "left out, as asked"
    from engine.backends.measure.reference_check import find_reference

    return find_reference(llm.spec)


def _same_ids(
    reference: Reference | None, view: PromptView, inputs: InputProcessor, query: str, document: str, whole: EncodedPair
) -> bool | None:
    if reference is None:
        return None
    text = view.plain_text(inputs.default_instruction, query, document)
    asked = inputs.default_instruction + query
    ids = reference.ids_of_pair(asked, document) if text is None else reference.ids_of(text)
    return bool(np.array_equal(np.array(ids), whole.token_ids))


def _facts(llm: LLM) -> dict[str, Any]:
    return {
        "decision": llm.spec.decision,
        "fingerprint": llm.spec.fingerprint,
        "device": llm.info.device,
        "dtype": llm.info.dtype,
        "quantization": llm.config.model.quantization,
        "notes": list(llm.info.notes),
        "max_model_len": llm.spec.max_model_len,
    }
