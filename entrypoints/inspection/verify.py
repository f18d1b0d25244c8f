"""One model in every precision of its backend, against float32, and float32 against transformers.

Float32 must give the reference's scores, and a pair's score must not depend on the rest of its batch: these are
contracts with fixed bounds. A lower precision may move logits, scores and the order as far as
``verify_bounds.py`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.devices import HOST
from engine.entrypoints.inspection.pairs import QuerySet
from engine.entrypoints.inspection.verify_bounds import Bounds, bounds_of
from engine.errors import DeviceError, EngineError, ModelLoadError
from engine.inputs.processor import InputProcessor
from engine.model_spec import HeadSpec
from engine.scoring.activation import activate, logits_of

if TYPE_CHECKING:
    from engine import LLM
    from engine.backends.base import Capabilities

Load = Callable[[Mapping[str, Any]], "LLM"]

BASELINE = "float32"
NEAR = 0.1
"""Of the bound of a precision: documents that are nearer than that share of their query's range are near ties."""
_BOUNDED = ("sigmoid", "softmax", "tanh", "cosine")
"""Activations whose scores lie between fixed ends."""


@dataclass(frozen=True)
class Setting:
    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Agreement:
    """One setting against another one."""

    setting: str
    against: str
    max_logit: float
    max_score: float
    num_swaps: int
    """Documents of one query in another order."""
    kendall_tau: float
    """Of documents that this side no longer tells apart half a swap counts."""
    largest_swap: float
    """How far apart, in logits of the other side, the farthest swapped documents were."""
    bound: float
    bounds_logit: bool
    """The bound is on logits; else on scores."""
    num_top1: int = 0
    """Queries with another first document than the other side has, as far as that one does not hold the two equal."""
    num_queries: int = 0
    num_ties: int = 0
    """Documents of a query that the other side tells apart and this one does not."""
    num_ordered: int = 1
    """Pairs of documents of a query that the other side tells apart; 0: no order was compared."""
    right_top1: float | None = None
    """Of a judged file: the share of queries whose first document is a right one."""
    order: Bounds | None = None
    """Bounds beside ``bound``; None: the two sides compute the same, so that only the numbers are bounded."""
    score_bound: float | None = None
    """On ``max_score``, where scores are not logits."""

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def _is_one_near_swap(self) -> bool:
        """One pair of neighbours may swap in a set of any size."""
        return self.num_swaps <= 1 and self.num_ties == 0 and self.largest_swap <= self.bound / 2

    @property
    def faults(self) -> list[str]:
        """The figures that are out of their bounds, one phrase each."""
        what, size = ("logits", self.max_logit) if self.bounds_logit else ("scores", self.max_score)
        found = []
        if not size <= self.bound:  # so that NaN is one
            found.append(f"differs from {self.against} by {size:.2g} in its {what}, more than {self.bound:.2g}")
        if self.score_bound is not None and not self.max_score <= self.score_bound:
            found.append(f"moves scores by {self.max_score:.2g}, more than {self.score_bound:.2g}")
        if self.order is None or self._is_one_near_swap:
            return found
        if self.kendall_tau < self.order.tau:
            found.append(f"has another order (Kendall tau {self.kendall_tau:.2f}, less than {self.order.tau:g})")
        if self.num_top1 > self.order.top1_share * self.num_queries:
            allowed = int(self.order.top1_share * self.num_queries)
            found.append(
                f"puts another document first in {self.num_top1} of {self.num_queries} queries, more than {allowed}"
            )
        return found


@dataclass(frozen=True)
class Unavailable:
    """A setting that could not be tried (or, where ``failed``, one that should have worked)."""

    setting: str
    reason: str
    failed: bool


@dataclass(frozen=True)
class VerifyReport:
    model: str
    device: str
    reference: str
    has_reference: bool
    num_pairs: int
    results: list[Agreement | Unavailable]

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

    backend = choose_backend(str(values.get("device", "auto")))[0]
    capabilities = backend.capabilities
    baseline, others = settings_to_verify(values, capabilities)
    results: list[Agreement | Unavailable] = []
    if values.get("lora_modules"):
        say("adapters are left out: merge one with engine convert --adapter, and verify the result")
    say(f"comparing {', '.join((BASELINE, *(setting.name for setting in others)))}, one after the other")
    with load(baseline.values) as llm:
        spec, expected = llm.spec, _logits(llm, pairs)
        flat = np.concatenate(expected)
        spread = max(1.0, float(flat.max() - flat.min()))
        unit = score_unit(spec.head, spread)
        bound = capabilities.batch_tolerance * unit
        alone = f"{BASELINE}, alone"
        if spec.head.kind == "listwise":
            results.append(Unavailable(alone, "the model reads the documents of a query together", failed=False))
        else:
            each = [np.concatenate([_logits(llm, [(query, [text])])[0] for text in texts]) for query, texts in pairs]
            results.append(_agreement(alone, "in a batch", each, expected, spec.head, bound, grades=grades))
        if with_reference:
            say("running transformers on the same pairs")
        reference, description = _reference_logits(llm, pairs) if with_reference else (None, "left out, as asked")
    if reference is not None:
        bound = capabilities.reference_tolerance * unit
        results.insert(0, _agreement(BASELINE, "transformers", expected, reference, spec.head, bound, grades=grades))
    for setting in others:
        say(f"running {setting.name}")
        order = bounds_of(setting.name)
        try:
            with load(setting.values) as llm:
                logits = _logits(llm, pairs)
        except DeviceError as error:
            results.append(Unavailable(setting.name, str(error), failed=False))
        except (ModelLoadError, EngineError) as error:
            results.append(Unavailable(setting.name, str(error), failed=True))
        else:
            bound = spread * order.logit_share
            results.append(
                _agreement(setting.name, BASELINE, logits, expected, spec.head, bound, order=order, grades=grades)
            )
    num_pairs = sum(len(texts) for _, texts in pairs)
    return VerifyReport(spec.name, backend.name, description, reference is not None, num_pairs, results)


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


def _agreement(
    setting: str,
    against: str,
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    head: HeadSpec,
    bound: float,
    *,
    order: Bounds | None = None,
    grades: Sequence[Sequence[int]] | None = None,
) -> Agreement:
    ours, theirs = np.concatenate(found), np.concatenate(expected)
    figures = compare_orders(found, expected, 0.0 if order is None else order.logit_share * NEAR)
    firsts = [int(row.argmax()) for row in found]
    right = None if grades is None else [own[first] > 0 for own, first in zip(grades, firsts, strict=True)]
    return Agreement(
        setting=setting,
        against=against,
        max_logit=float(np.abs(ours - theirs).max()),
        max_score=float(np.abs(activate(ours, head) - activate(theirs, head)).max()),
        num_swaps=len(figures.gaps),
        kendall_tau=figures.tau,
        largest_swap=max(figures.gaps, default=0.0),
        bound=bound,
        bounds_logit=order is not None,
        num_top1=figures.num_top1,
        num_queries=len(found),
        num_ties=figures.num_ties,
        num_ordered=figures.num_ordered,
        right_top1=None if right is None else sum(right) / len(right),
        order=order,
        score_bound=order.score if order is not None and head.activation in _BOUNDED else None,
    )


@dataclass(frozen=True)
class OrderFigures:
    """How far two sides agree on the order of each query's documents."""

    gaps: tuple[float, ...]
    """Of swapped documents, in logits of the other side; near ties count too."""
    num_ties: int
    num_ordered: int
    tau: float
    num_top1: int


def compare_orders(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], near: float = 0.0) -> OrderFigures:
    """The order of ``found`` against that of ``expected``, within each query.

    ``near``: the share of a query's range within which ``expected`` holds two documents to be near ties, whose order
    says nothing; exact ties always are. Documents that ``found`` no longer tells apart count as half a swap.
    """
    gaps: list[float] = []
    num_swaps = num_ties = num_ordered = num_top1 = 0
    for ours, theirs in zip(found, expected, strict=True):
        tie = near * float(theirs.max() - theirs.min())
        first, second = np.triu_indices(len(ours), 1)
        our_gaps, their_gaps = ours[first] - ours[second], theirs[first] - theirs[second]
        is_swap, is_apart = our_gaps * their_gaps < 0, np.abs(their_gaps) > tie
        gaps += np.abs(their_gaps[is_swap]).tolist()
        num_swaps += int((is_swap & is_apart).sum())
        num_ties += int(((our_gaps == 0) & is_apart).sum())
        num_ordered += int(is_apart.sum())
        num_top1 += bool(theirs.max() - theirs[int(ours.argmax())] > tie)
    tau = 1 - (2 * num_swaps + num_ties) / num_ordered if num_ordered else 1.0
    return OrderFigures(tuple(gaps), num_ties, num_ordered, tau, num_top1)
