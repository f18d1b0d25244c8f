"""The offline way in: ``LLM(model).score(query, documents)``, with the names and shapes of vLLM's class.

How its calls run, slice by slice, is told in ``pipeline.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from typing import Any, Self, overload

import numpy as np

from engine.checkpoint.resolve import resolve_model
from engine.core.client import EngineClient, create_client
from engine.entrypoints.inspection.self_test import SelfTest, run_self_test
from engine.entrypoints.offline.arguments import (
    adapter_of,
    engine_config,
    has_one_query,
    is_prompt,
    pair_settings,
    pair_stream,
    resolve_callable_overrides,
)
from engine.entrypoints.offline.embedding import TextSide, TextSlice
from engine.entrypoints.offline.pipeline import Pipeline
from engine.entrypoints.offline.slices import in_slices
from engine.errors import InvalidRequestError
from engine.inputs.checks import check_query
from engine.inputs.processor import InputProcessor
from engine.model_spec import ModelSpec
from engine.outputs import EmbeddingRequestOutput, RerankResult, ScoringRequestOutput
from engine.pictures.loader import PictureLoader
from engine.scoring.activation import ranking
from engine.scoring.document_store import document_store
from engine.step import WorkerInfo

SLICE_PAIRS = 512
"""Pairs of one request to the core; they share their common beginning."""


class LLM:
    """A reranker in this process, with the names and shapes of vLLM's class.

    ``model`` is a path or a name on the hub; None is the small English reranker of the package. ``settings`` are
    options of the engine, named like the flags of ``engine serve`` (``dtype``, ``max_model_len``, ``device`` ...).
    Raises ``TypeError`` for an unknown one and ``StartupError`` for what stops the start. Use it as a context, or
    ``close`` it.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        hf_overrides: Mapping[str, Any] | Callable[[Any], Any] | None = None,
        **settings: Any,
    ) -> None:
        self._closed = False
        overrides = {} if callable(hf_overrides) else dict(hf_overrides or {})
        config = engine_config({"model": model, "hf_overrides": overrides, **settings})
        if callable(hf_overrides):
            config = replace(config, model=resolve_callable_overrides(config.model, hf_overrides))
        self.config = config
        self.spec: ModelSpec = resolve_model(config.model)
        self._processor = InputProcessor(self.spec, config.model)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._pictures = PictureLoader(self.spec.vision, config.model.allowed_image_hosts)
        self._store = document_store(self.spec, config.model.document_store_bytes)
        self._client: EngineClient = create_client(config, self.spec, self._processor.constant_prefix)
        try:
            trained = config.model.load_format != "dummy"
            test = SelfTest(self._processor, self.spec, self._client.info.dtype, trained=trained)
            run_self_test(self._client, test)
        except BaseException:
            self.close()
            raise
        self._pipeline = Pipeline(self._processor, self._client, self.spec.head, self._threads, self._store)

    def score(
        self, data_1: Any = None, data_2: Any = None, /, *, use_tqdm: bool | Callable[..., Any] = True, **options: Any
    ) -> list[ScoringRequestOutput]:
        """Scores 1:1, 1:N or N:N pairs, in input order. Sides are texts, token ids, or iterables of them.

        ``instruction`` and ``chat_template`` shape the prompt; limits come as keywords (``max_tokens_per_doc``,
        ``truncate_prompt_tokens`` ...) or inside vLLM's ``pooling_params`` and ``tokenization_kwargs``.
        ``long_document="chunk"``, ``chunk_tokens``, ``chunk_overlap`` and ``max_chunks_per_doc`` read long documents in
        overlapping chunks, the best of which counts, as the server does. ``lora_request`` names one of
        ``lora_modules``. A listwise model reads the documents of a single query together, in their order; of N:N pairs
        each is a list of its own.

        Raises ``ValueError`` (``InvalidRequestError`` is one) or ``TypeError`` for what is wrong with the call. A pair
        that cannot be read (too long with ``truncate=False``, no token at all), or that fails on the device, has an
        ``error`` in its output instead.
        """
        return list(self.score_iter(data_1, data_2, use_tqdm=use_tqdm, **options))

    def score_iter(
        self, data_1: Any = None, data_2: Any = None, /, *, use_tqdm: bool | Callable[..., Any] = False, **options: Any
    ) -> Iterator[ScoringRequestOutput]:
        """``score``, one output at a time: nothing is kept that was handed out, and a generator is read as needed."""
        self._check_open()
        first, second = options.pop("text_1", data_1), options.pop("text_2", data_2)
        first = options.pop("data_1", first)
        one_query = has_one_query(first)
        pairs, total = pair_stream(first, options.pop("data_2", second))
        size = None if self.reads_lists and one_query else SLICE_PAIRS
        slices = in_slices(pairs, size, self._pictures, one_query=one_query)
        return self._pipeline.run(slices, total, self._adapter(options), pair_settings(options), use_tqdm)

    @overload
    def rerank(
        self,
        query: str,
        documents: Iterable[Any],
        top_n: int | None = None,
        *,
        min_score: float | None = None,
        use_tqdm: bool | Callable[..., Any] = False,
        **options: Any,
    ) -> list[RerankResult]: ...

    @overload
    def rerank(
        self,
        query: Sequence[str],
        documents: Iterable[Any],
        top_n: int | None = None,
        *,
        min_score: float | None = None,
        use_tqdm: bool | Callable[..., Any] = False,
        **options: Any,
    ) -> list[list[RerankResult]]: ...

    def rerank(
        self,
        query: str | Sequence[str],
        documents: Iterable[Any],
        top_n: int | None = None,
        *,
        min_score: float | None = None,
        use_tqdm: bool | Callable[..., Any] = False,
        **options: Any,
    ) -> list[RerankResult] | list[list[RerankResult]]:
        """The documents, best first; ties keep their input order. A list of queries gives a ranking for each.

        ``top_n`` keeps the best, ``min_score`` leaves out what scores less; ``options`` are those of ``score``. Raises
        ``ValueError`` or ``TypeError`` like ``score``, and for a document without a score, which has no rank.
        """
        if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 0):
            raise ValueError(f"top_n must be a whole number of documents or None, got {top_n!r}")
        self._check_open()
        listed, one = list(documents), is_prompt(query)
        queries: list[Any] = [query] if one else list(query)
        if not queries:
            raise ValueError("There is no query.")
        if not one:
            for i, each in enumerate(queries):
                if isinstance(each, str):
                    check_query(each, ("queries", i))
        adapter, settings = self._adapter(options), pair_settings(options)
        rankings: list[list[RerankResult]] = [[] for _ in queries]
        if listed:
            streams = (pair_stream(each, listed)[0] for each in queries)
            size = None if self.reads_lists else SLICE_PAIRS
            slices = chain.from_iterable(in_slices(stream, size, self._pictures) for stream in streams)
            outputs = self._pipeline.run(slices, len(queries) * len(listed), adapter, settings, use_tqdm)
            for i in range(len(queries)):
                own = list(islice(outputs, len(listed)))
                rankings[i] = ranked_results(listed, own, top_n=top_n or None, min_score=min_score)
        return rankings[0] if one else rankings

    def embed(
        self,
        texts: str | Iterable[str],
        /,
        *,
        side: TextSide | None = None,
        use_tqdm: bool | Callable[..., Any] = False,
        **options: Any,
    ) -> list[EmbeddingRequestOutput]:
        """The vectors of texts, in input order, by a bi-encoder: what it compares when it scores pairs.

        ``side`` puts the model's prompt for queries or for documents before each text; None puts none. ``options`` are
        limits as in ``score`` (``truncate_prompt_tokens``, ``truncate``). A text that cannot be read has an ``error``.
        Raises ``ValueError`` (``InvalidRequestError`` is one) for a model that embeds no texts.
        """
        self._check_open()
        if side not in (None, "query", "document"):
            raise ValueError(f"side must be 'query', 'document' or None, got {side!r}")
        listed = [texts] if isinstance(texts, str) else list(texts)
        adapter, settings = self._adapter(options), pair_settings(options)
        starts = range(0, len(listed), SLICE_PAIRS)
        slices = (TextSlice(start, listed[start : start + SLICE_PAIRS], side) for start in starts)
        outputs: Iterator[Any] = self._pipeline.run(slices, len(listed), adapter, settings, use_tqdm)
        return list(outputs)

    def _adapter(self, options: dict[str, Any]) -> str | None:
        return adapter_of(options.pop("lora_request", None), self.config.model.lora_modules)

    @property
    def reads_lists(self) -> bool:
        """A listwise model: the documents of one query are read together, so their order and number count."""
        return self._processor.reads_lists

    @property
    def info(self) -> WorkerInfo:
        """The device, its dtype and kernels, and the limits that follow from them."""
        return self._client.info

    def reset_prefix_cache(self) -> None:
        """Forgets what is kept of earlier calls' queries, and of their documents by a late-interaction model."""
        self._store.clear()
        with self._pipeline.lock:
            self._client.reset_prefix_cache()

    def close(self) -> None:
        """Free the model. Safe to call twice, and from an object that never finished starting."""
        if self._closed:
            return
        self._closed = True
        if pipeline := getattr(self, "_pipeline", None):
            pipeline.closed = True
        if threads := getattr(self, "_threads", None):
            threads.shutdown(wait=True, cancel_futures=True)
        if pictures := getattr(self, "_pictures", None):
            pictures.close()
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


def ranked_results(
    documents: Sequence[Any], outputs: Sequence[ScoringRequestOutput], *, top_n: int | None, min_score: float | None
) -> list[RerankResult]:
    """Best first; raises ``ValueError`` for a pair without a score, because an order without it would be a guess."""
    for position, output in enumerate(outputs):
        if isinstance(output.cause, InvalidRequestError):
            path = output.cause.path
            raise output.cause.at((path[0], position) if len(path) > 1 else path)
        if output.error is not None:
            raise ValueError(f"documents[{position}] has no score: {output.error}")
    results = []
    for i in ranking(np.array([output.outputs.logit for output in outputs], np.float32)).tolist():
        score, logit = outputs[i].outputs.score, outputs[i].outputs.logit
        if min_score is None or score >= min_score:
            found = outputs[i]
            results.append(RerankResult(i, score, logit, documents[i], found.truncated, found.spans, found.unfamiliar))
    return results[:top_n]
