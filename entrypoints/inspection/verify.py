"""One model in every precision of its backend, against float32, and float32 against transformers.

Float32 must give the reference's scores, and a pair's score must not depend on the rest of its batch: these are
contracts with fixed bounds. A lower precision may move logits, scores and the order as far as
``verify_bounds.py`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.devices import HOST
from engine.entrypoints.inspection.agreement import Agreement, agreement
from engine.entrypoints.inspection.pairs import QuerySet
from engine.entrypoints.inspection.verify_bounds import bounds_of
from engine.errors import DeviceError, EngineError
from engine.inputs.processor import InputProcessor
from engine.model_spec import HeadSpec
from engine.scoring.activation import logits_of

if TYPE_CHECKING:
    from engine import LLM
    from engine.backends.base import Capabilities

Load = Callable[[Mapping[str, Any]], "LLM"]

BASELINE = "float32"
ALONE = f"{BASELINE}, alone"


@dataclass(frozen=True)
class Setting:
    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Unavailable:
    """A setting that could not be tried (or, where ``failed``, one that should have worked)."""

    setting: str
    reason: str
    failed: bool


Results = list[Agreement | Unavailable]


@dataclass(frozen=True)
class VerifyReport:
    model: str
    device: str
    reference: str
    has_reference: bool
    num_pairs: int
    results: Results

    @property
    def problems(self) -> list[str]:
        """One phrase for each setting that is not as it must be."""
        found = []
        for result in self.results:
            if isinstance(result, Unavailable):
                found += [f"{result.setting}: {result.reason}"] if result.failed else []
            elif not result.ok:
                found.append(f"{result.setting} {', '.join(result.faults)}")
        return found

    @property
    def ok(self) -> bool:
        return not self.problems


def settings_to_verify(values: Mapping[str, Any], capabilities: Capabilities) -> tuple[Setting, list[Setting]]:
    """Float32, and the others; one the user named is the only other one."""
    # Where the device has no float32, the CPU tells what it would be.
    host = {} if BASELINE in capabilities.dtypes else {"device": HOST.name}
    rest = {name: value for name, value in values.items() if name not in ("dtype", "quantization")}
    baseline = Setting(BASELINE, {**rest, "dtype": BASELINE, **host})
    if asked := {name: values[name] for name in ("dtype", "quantization") if values.get(name) not in (None, "auto")}:
        others = [Setting(" ".join(map(str, asked.values())), {**rest, **asked})]
        return baseline, [setting for setting in others if setting.name != BASELINE]
    dtypes = [Setting(dtype, {**rest, "dtype": dtype}) for dtype in capabilities.dtypes if dtype != BASELINE]
    quantized = [Setting(name, {**rest, "quantization": name}) for name in capabilities.quantizations]
    return baseline, [*dtypes, *quantized]


def verify(
    values: Mapping[str, Any],
    pairs: QuerySet,
    load: Load,
    *,
    with_reference: bool = True,
    grades: Sequence[Sequence[int]] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> VerifyReport:
    """``load`` makes an ``LLM`` of settings, each of which is ``values`` in another precision.

    ``grades``: of each query's documents, above 0 for the right ones, where the pairs are judged. ``say`` is told what
    is compared before it is. Raises ``EngineError`` where float32 itself cannot be loaded, or scores no pair.
    """
    from engine.backends.registry import choose_backend

    backend, _ = choose_backend(str(values.get("device", "auto")))
    baseline, others = settings_to_verify(values, backend.capabilities)
    _announce(values, others, say)
    with load(baseline.values) as llm:
        spec, expected = llm.spec, _logits(llm, pairs)
        unit = score_unit(spec.head, spread := _spread(expected))
        agree = partial(agreement, head=spec.head, grades=grades)
        bound = unit * backend.capabilities.batch_tolerance
        results: Results = [_alone(llm, pairs, expected, partial(agree, bound=bound))]
        if with_reference:
            say("running transformers on the same pairs")
        reference, description = _reference_logits(llm, pairs) if with_reference else (None, "left out, as asked")
    if reference is not None:
        bound = unit * backend.capabilities.reference_tolerance
        results.insert(0, agree(BASELINE, "transformers", expected, reference, bound=bound))
    for setting in others:
        logits = _tried(setting, load, pairs, say)
        if isinstance(logits, Unavailable):
            results.append(logits)
            continue
        order = bounds_of(setting.name)
        results.append(agree(setting.name, BASELINE, logits, expected, bound=spread * order.logit_share, order=order))
    num_pairs = sum(len(texts) for _, texts in pairs)
    return VerifyReport(spec.name, backend.name, description, reference is not None, num_pairs, results)


def _spread(logits: Sequence[np.ndarray]) -> float:
    """The range of all logits, at least 1."""
    flat = np.concatenate(logits)
    return max(1.0, float(flat.max() - flat.min()))


def _tried(setting: Setting, load: Load, pairs: QuerySet, say: Callable[[str], None]) -> list[np.ndarray] | Unavailable:
    """The logits of a setting, or why there are none."""
    say(f"running {setting.name}")
    try:
        with load(setting.values) as llm:
            return _logits(llm, pairs)
    except EngineError as error:
        return Unavailable(setting.name, str(error), failed=not isinstance(error, DeviceError))


def _alone(
    llm: LLM, pairs: QuerySet, batch: list[np.ndarray], agree: Callable[..., Agreement]
) -> Agreement | Unavailable:
    """Each pair in a call of its own, against all of them together."""
    if llm.spec.head.kind == "listwise":
        return Unavailable(ALONE, "the model reads the documents of a query together", failed=False)
    each = [np.concatenate([_logits(llm, [(query, [text])])[0] for text in texts]) for query, texts in pairs]
    return agree(ALONE, "in a batch", each, batch)


def _announce(values: Mapping[str, Any], others: Sequence[Setting], say: Callable[[str], None]) -> None:
    if values.get("lora_modules"):
        say("adapters are left out: merge one with engine convert --adapter, and verify the result")
    say(f"comparing {', '.join((BASELINE, *(setting.name for setting in others)))}, one after the other")


def score_unit(head: HeadSpec, spread: float) -> float:
    """Bounds are for probabilities. A score that is the logit itself moves four times as far and grows with its range.

    (The sigmoid is nowhere steeper than 1/4.)
    """
    return 1.0 if head.activation in ("sigmoid", "softmax") else 4 * spread


def _logits(llm: LLM, pairs: QuerySet) -> list[np.ndarray]:
    """(documents,) logits of each query; raises ``EngineError`` for a pair without a score."""
    found = []
    for query, texts in pairs:
        outputs = llm.score(query, texts, use_tqdm=False)
        for output in outputs:
            if output.error is not None:
                raise EngineError(f"a pair of the query {query!r} has no score: {output.error}")
        found.append(np.array([output.outputs.logit for output in outputs], np.float64))
    return found


def _reference_logits(llm: LLM, pairs: QuerySet) -> tuple[list[np.ndarray] | None, str]:
    from engine.backends.measure.reference_check import find_reference

    reference, description = find_reference(llm.spec)
    if reference is None:
        return None, description
    inputs = InputProcessor(llm.spec, llm.config.model)
    values = [reference.values(inputs.encode([query], texts)) for query, texts in pairs]
    return [logits_of(rows, llm.spec.head).astype(np.float64) for rows in values], description
