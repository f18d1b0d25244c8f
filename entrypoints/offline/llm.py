"""The offline way in: ``LLM(model).score(query, documents)``, with the names and shapes of vLLM's class.

Pairs stream through the engine in groups: while the core scores some, a thread tokenises the next, and no more than
``WINDOW`` groups exist at any time, so a generator of a million pairs needs no more memory than its results. Answers
come back in any order and leave in the order of the input.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count, islice
from types import FrameType
from typing import Any, Self

import numpy as np
from tqdm import tqdm

from engine.checkpoint.resolve import resolve_model
from engine.core.client import EngineClient, create_client
from engine.entrypoints.inspection.self_test import SelfTest, run_self_test
from engine.entrypoints.offline.arguments import (
    Prompt,
    adapter_of,
    engine_config,
    pair_options,
    pair_stream,
    resolve_callable_overrides,
)
from engine.errors import InvalidRequestError, RequestError
from engine.inputs.processor import InputProcessor
from engine.messages import EngineCoreRequest
from engine.model_spec import ModelSpec
from engine.outputs import RerankResult, ScoringOutput, ScoringRequestOutput
from engine.request import EncodedPair, PairOptions
from engine.scoring.activation import ranking
from engine.scoring.result_assembler import PairCollector, core_request, shifted
from engine.step import WorkerInfo

GROUP_PAIRS = 512
"""Pairs of one request to the core; they share their common beginning."""
WINDOW = 4
"""Groups inside at a time, the ones being tokenised included."""
PROGRESS_TEXT = "Processed prompts"

NumberedPair = tuple[int, tuple[Prompt, Prompt]]


class _Group:
    """Some consecutive pairs on their way: encoded by a thread, then scored by the core."""

    def __init__(self, call_id: str, encoding: Future[list[EncodedPair]], adapter: str | None = None) -> None:
        self.call_id = call_id
        self.adapter = adapter
        self.encoding = encoding
        self.collector: PairCollector | None = None
        self.pairs: list[EncodedPair] = []

    @property
    def complete(self) -> bool:
        return self.collector is not None and self.collector.complete


class LLM:
    """A reranker in this process."""

    def __init__(
        self,
        model: str | None = None,
        *,
        hf_overrides: Mapping[str, Any] | Callable[[Any], Any] | None = None,
        **settings: Any,
    ) -> None:
        self._groups: dict[str, _Group] = {}
        self._closed = False
        overrides = {} if callable(hf_overrides) else dict(hf_overrides or {})
        config = engine_config({"model": model, "hf_overrides": overrides, **settings})
        if callable(hf_overrides):
            config = replace(config, model=resolve_callable_overrides(config.model, hf_overrides))
        self.config = config
        self.spec: ModelSpec = resolve_model(config.model)
        self._processor = InputProcessor(self.spec, config.model)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._client: EngineClient = create_client(config, self.spec, self._processor.stem)
        try:
            trained = config.model.load_format != "dummy"
            test = SelfTest(self._processor, self.spec, self._client.info.dtype, trained=trained)
            run_self_test(self._client, test)
        except BaseException:
            self.close()
            raise
        self._lock = threading.Lock()
        self._request_ids = count()
        self._call_ids = count()

    def score(
        self, data_1: Any = None, data_2: Any = None, /, *, use_tqdm: bool | Callable[..., Any] = True, **options: Any
    ) -> list[ScoringRequestOutput]:
        """Scores 1:1, 1:N or N:N pairs, in input order. Sides are texts, token ids, or iterables of them.

        ``instruction`` and ``chat_template`` shape the prompt; limits come as keywords (``max_tokens_per_doc``,
        ``truncate_prompt_tokens`` ...) or inside vLLM's ``pooling_params`` and ``tokenization_kwargs``.
        ``lora_request`` names one of ``lora_modules``.
        """
        return list(self.score_iter(data_1, data_2, use_tqdm=use_tqdm, **options))

    def score_iter(
        self, data_1: Any = None, data_2: Any = None, /, *, use_tqdm: bool | Callable[..., Any] = False, **options: Any
    ) -> Iterator[ScoringRequestOutput]:
        """The same, one output at a time: nothing is kept that was handed out."""
        self._check_open()
        first, second = options.pop("text_1", data_1), options.pop("text_2", data_2)
        pairs, total = pair_stream(options.pop("data_1", first), options.pop("data_2", second))
        adapter = adapter_of(options.pop("lora_request", None), self.config.model.lora_modules)
        return self._run(pairs, total, pair_options(options), adapter, use_tqdm)

    def rerank(
        self,
        query: str,
        documents: Iterable[Any],
        top_n: int | None = None,
        *,
        use_tqdm: bool | Callable[..., Any] = False,
        **options: Any,
    ) -> list[RerankResult]:
        """The documents, best first. Ties keep their input order."""
        if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 0):
            raise ValueError(f"top_n must be a whole number of documents or None, got {top_n!r}")
        listed = list(documents)
        if not listed:
            return []
        outputs = self.score([query], listed, use_tqdm=use_tqdm, **options)
        order = ranked_positions(outputs)[: top_n or None]
        return [
            RerankResult(i, outputs[i].outputs.score, outputs[i].outputs.logit, listed[i], outputs[i].truncated)
            for i in order
        ]

    def _run(
        self,
        pairs: Iterator[tuple[Prompt, Prompt]],
        total: int | None,
        options: PairOptions,
        adapter: str | None,
        use_tqdm: bool | Callable[..., Any],
    ) -> Iterator[ScoringRequestOutput]:
        window: deque[_Group] = deque()
        bar = _progress_bar(use_tqdm, total)
        numbered = enumerate(pairs)
        try:
            self._fill(window, numbered, options, adapter)
            while window:
                self._advance(window)
                while window and window[0].complete:
                    group = window.popleft()
                    del self._groups[group.call_id]
                    self._fill(window, numbered, options, adapter)
                    for output in self._outputs(group):
                        bar.update(1)
                        yield output
        finally:
            # An exception, Ctrl-C or a consumer that stopped early: nothing may go on running for it.
            self._give_up(window)
            bar.close()

    def _fill(
        self, window: deque[_Group], pairs: Iterator[NumberedPair], options: PairOptions, adapter: str | None
    ) -> None:
        while len(window) < WINDOW and (chunk := list(islice(pairs, GROUP_PAIRS))):
            call_id = f"offline-{next(self._call_ids)}"
            window.append(_Group(call_id, self._threads.submit(self._encode, chunk, options), adapter))
            self._groups[call_id] = window[-1]

    def _encode(self, chunk: Sequence[NumberedPair], options: PairOptions) -> list[EncodedPair]:
        queries, documents = [query for _, (query, _) in chunk], [document for _, (_, document) in chunk]
        if all(query is queries[0] for query in queries):
            del queries[1:]
        num_texts = sum(isinstance(prompt, str) for prompt in (*queries, *documents))
        try:
            if num_texts == 0:
                return self._processor.encode_ids(queries, documents)  # type: ignore[arg-type]
            if num_texts == len(queries) + len(documents):
                return self._processor.encode(queries, documents, options)  # type: ignore[arg-type]
            raise InvalidRequestError("Both sides must be texts, or both token ids.")
        except RequestError as error:
            raise shifted(error, chunk[0][0]) from error  # counted as the caller counts

    def _advance(self, window: deque[_Group]) -> None:
        """Hand over what is encoded and take in what is scored; waits only when neither is there."""
        for group in window:
            if group.collector is None and (group is window[0] or group.encoding.done()):
                self._submit(group, group.encoding.result())
        with self._lock, interrupt_after():
            if window[0].complete:
                return  # another caller of this object took our answers in
            for output in self._client.recv(0.1).outputs:
                owner = self._groups.get(output.call_id)
                if owner is not None and owner.collector is not None:
                    owner.collector.add(output)

    def _submit(self, group: _Group, pairs: list[EncodedPair]) -> None:
        request: EngineCoreRequest = core_request(
            group.call_id, pairs, arrival_s=time.monotonic(), adapter=group.adapter
        )
        group.pairs = pairs
        group.collector = PairCollector(self.spec.head, pairs)
        with self._lock, interrupt_after():
            self._client.submit(request)

    def _outputs(self, group: _Group) -> Iterator[ScoringRequestOutput]:
        assert group.collector is not None
        for i, pair in enumerate(group.pairs):
            scored = group.collector.get(i)
            error = None if scored else str(group.collector.errors.get(i, "no score"))
            outputs = ScoringOutput(scored.score, scored.logit) if scored else ScoringOutput(np.nan, np.nan)
            yield ScoringRequestOutput(
                str(next(self._request_ids)), outputs, pair.token_ids, pair.truncated, error=error
            )

    def _give_up(self, window: deque[_Group]) -> None:
        for group in window:
            group.encoding.cancel()
            self._groups.pop(group.call_id, None)
            if group.collector is not None and not group.complete and not self._closed:
                with self._lock, interrupt_after():
                    self._client.abort(group.call_id)
        window.clear()

    @property
    def info(self) -> WorkerInfo:
        """The device, its dtype and kernels, and the limits that follow."""
        return self._client.info

    def reset_prefix_cache(self) -> None:
        with self._lock:
            self._client.reset_prefix_cache()

    def close(self) -> None:
        """Free the model. Safe to call twice, and from an object that never finished starting."""
        if self._closed:
            return
        self._closed = True
        if threads := getattr(self, "_threads", None):
            threads.shutdown(wait=True, cancel_futures=True)
        if client := getattr(self, "_client", None):
            client.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this LLM is closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()


@contextmanager
def interrupt_after() -> Iterator[None]:
    """Ctrl-C waits for the end of this block: a step that is torn apart would leave the core in no known state.

    A second Ctrl-C does not wait.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is not signal.default_int_handler:
        yield
        return
    interrupted = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupted:
        raise KeyboardInterrupt


def ranked_positions(outputs: Sequence[ScoringRequestOutput]) -> list[int]:
    """Positions best first; a pair without a score is an error, because an order without it would be a guess."""
    for position, output in enumerate(outputs):
        if output.error is not None:
            raise ValueError(f"documents[{position}] has no score: {output.error}")
    order: list[int] = ranking(np.array([output.outputs.logit for output in outputs], np.float32)).tolist()
    return order


def _progress_bar(use_tqdm: bool | Callable[..., Any], total: int | None) -> Any:
    make = use_tqdm if callable(use_tqdm) else tqdm
    if callable(use_tqdm):
        return make(total=total, desc=PROGRESS_TEXT, unit="pair")
    # None: shown on a terminal only.
    return tqdm(total=total, desc=PROGRESS_TEXT, unit="pair", disable=None if use_tqdm else True)
