"""The first two calls of every engine: a pair that does not fit, and it again after one that does.

They find what no check of files can: weights that give NaN, a score that depends on the rest of its batch, and a head
that ranks the wrong way round (tokens or labels swapped, a prompt that is not the model's). They also compute the
constant template, so the first caller does not wait for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from engine.core.async_client import AsyncMPClient
from engine.core.client import EngineClient
from engine.core.replicas import ReplicaClient
from engine.errors import ModelLoadError
from engine.inputs.processor import InputProcessor
from engine.messages import EngineCoreOutput
from engine.model_spec import ModelSpec
from engine.request import PairOptions
from engine.scoring.call_encoding import core_request
from engine.scoring.pair_collector import PairCollector

logger = logging.getLogger(__name__)
QUERY = "What is the capital of France?"
RELEVANT = "Paris is the capital of France."
IRRELEVANT = "Whales breathe air."
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
"""Largest difference of a logit alone and in a batch, by compute dtype: loose, as it looks for mistakes."""


class SelfTest:
    """``calls`` go to the core, its answers to ``take``; then ``judge``."""

    def __init__(self, inputs: InputProcessor, spec: ModelSpec, dtype: str, *, trained: bool) -> None:
        self._spec = spec
        self._tolerance = _TOLERANCE.get(dtype, 0.25)
        self._trained = trained
        together = inputs.encode([QUERY], [RELEVANT, IRRELEVANT], PairOptions())
        # For a model that reads lists a document alone is another prompt, and nothing but another call may not matter.
        alone = together if inputs.reads_lists else together[1:]
        self._last = len(alone) - 1
        pairs = {"self-test-alone": alone, "self-test-both": together}
        self._collectors = {name: PairCollector(spec.head, members) for name, members in pairs.items()}
        self.calls = [
            core_request(name, collector.prompts, arrival_s=time.monotonic())
            for name, collector in self._collectors.items()
        ]
        self._logits: dict[tuple[str, int], float] = {}

    @property
    def finished(self) -> bool:
        return all(collector.complete for collector in self._collectors.values())

    def take(self, outputs: Iterable[EngineCoreOutput]) -> None:
        """Raises ``ModelLoadError`` for a pair that could not be scored."""
        for output in outputs:
            collector = self._collectors[output.call_id]
            for pair in collector.add(output):
                self._logits[output.call_id, pair] = float(collector.logits[pair])
            for error in collector.errors.values():
                raise ModelLoadError(f"{self._spec.name} failed its self-test: {error}. Are the weights damaged?")

    def judge(self) -> None:
        """Raises ``ModelLoadError`` for a score that depends on the rest of its batch; warns about a wrong order."""
        alone = self._logits["self-test-alone", self._last]
        together = [self._logits["self-test-both", 0], self._logits["self-test-both", 1]]
        if abs(alone - together[1]) > self._tolerance * max(1.0, abs(alone)):
            raise ModelLoadError(
                f"{self._spec.name} failed its self-test: a pair scored {alone} alone and {together[1]} in a batch. "
                f"This is a bug of the engine on this device; please report it with the line on kernels in the log."
            )
        if self._trained and together[0] <= together[1]:
            logger.warning(
                "SELF-TEST: the model ranks a passage that answers the question BELOW one that has nothing to do with "
                "it (logits %.3f and %.3f). %s",
                *together,
                likely_causes(self._spec),
            )


def likely_causes(spec: ModelSpec) -> str:
    """Names what to look at where the order is wrong, in the words of the model's own kind of head."""
    prompt = (
        f"Is {spec.template} the prompt that it was trained with" if spec.template else "Is it read without a prompt"
    )
    head = spec.head
    if head.token_ids and len(head.token_ids) == 2:
        false, true = head.tokens
        return (
            f"Are its two tokens swapped (here {false!r} is false and {true!r} is true; classifier_from_token is "
            f"[false, true])? {prompt}, as it should be? Is it a reranker at all?"
        )
    if head.token_ids:
        return (
            f"Is it the logit of {' or '.join(map(repr, head.tokens))} that says how relevant a document is? {prompt}, "
            "as it should be? Is it a reranker at all?"
        )
    if head.kind == "embedding":
        return (
            f"Are the vectors pooled as in training (here: {head.pooling}), and the prompts before query and document "
            f"{spec.text_prompts!r} its own? Was it trained for search?"
        )
    if len(head.label_rows) == 2:
        return (
            f"Does row {head.label_rows[1]} of its head mean relevant, as id2label says? Was it trained to rank, "
            "and its head with it?"
        )
    if spec.causal:
        return f"{prompt}, as it should be? Was its classification head trained to rank, or is it new?"
    return "Was its classification head trained to rank passages for a question, or is it new, or for another task?"


def run_self_test(client: EngineClient, test: SelfTest) -> None:
    for call in test.calls:
        client.submit(call)
    while not test.finished:
        test.take(client.recv(1.0).outputs)
    test.judge()


async def run_self_test_async(client: AsyncMPClient | ReplicaClient, test: SelfTest) -> None:
    for call in test.calls:
        async for output in client.run(call):
            test.take([output])
    test.judge()
