"""``engine bench latency``: how long one call takes when the engine has nothing else to do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from engine.entrypoints.bench.dataset import check_data_options, load_calls
from engine.entrypoints.bench.flags import say_what_is_ignored
from engine.entrypoints.bench.offline import check_output, save
from engine.entrypoints.bench.options import LatencyOptions
from engine.entrypoints.progress import Progress
from engine.entrypoints.terminal import tell
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.entrypoints.offline.llm import LLM

PERCENTILES = (10, 25, 50, 75, 90, 99)


def run(options: LatencyOptions, load: Callable[[], LLM]) -> int:
    """Time single calls of the engine that ``load`` gives; the exit status.

    Raises ``ConfigError`` for counts that are too small.
    """
    say_what_is_ignored(options)
    if options.num_iters < 1 or options.num_iters_warmup < 0:
        raise ConfigError("--num-iters must be at least 1, --num-iters-warmup at least 0.")
    num_calls = options.num_iters + options.num_iters_warmup
    check_data_options(options, num_calls * options.random_batch_size)
    path = check_output(options.output_json, overwrite=options.overwrite)
    seconds: list[float] = []
    interrupted = False
    with load() as llm:
        calls = load_calls(options, num_calls * options.random_batch_size, llm.spec.tokenizer_path)
        tell(f"timing {options.num_iters} calls after {options.num_iters_warmup} to warm up, with {llm.spec.name}")
        try:
            with Progress(num_calls, "call", quiet=options.disable_tqdm) as progress:
                for index, call in enumerate(calls[:num_calls]):
                    start = time.perf_counter()
                    llm.score(call.query, call.documents, use_tqdm=False)
                    if index >= options.num_iters_warmup:
                        seconds.append(time.perf_counter() - start)
                    progress.tick()
        except KeyboardInterrupt:
            interrupted = True
        model = llm.spec.name
    if seconds:
        _show(seconds, options)
        percentiles = {str(p): float(np.percentile(seconds, p)) for p in PERCENTILES}
        result = {"avg_latency": float(np.mean(seconds)), "latencies": seconds, "percentiles": percentiles}
        save(path, {**result, "interrupted": interrupted}, options, model)
    if interrupted:
        print(f"Interrupted after {len(seconds)} measured calls.")
    return 130 if interrupted else 0


def _show(seconds: list[float], options: LatencyOptions) -> None:
    print(f"{len(seconds)} calls of {options.random_batch_size} documents")
    print(f"Avg latency: {np.mean(seconds):.6f} seconds")
    for percentile in PERCENTILES:
        print(f"{percentile}% percentile latency: {np.percentile(seconds, percentile):.6f} seconds")
