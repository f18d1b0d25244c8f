"""``engine bench throughput``: how many pairs a second the engine scores when it has all of them at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.entrypoints.bench.call import BenchCall
from engine.entrypoints.bench.dataset import check_data_options, load_calls
from engine.entrypoints.bench.flags import say_what_is_ignored
from engine.entrypoints.bench.offline import check_output, save
from engine.entrypoints.bench.options import ThroughputOptions
from engine.entrypoints.progress import Progress
from engine.entrypoints.terminal import counted, tell

if TYPE_CHECKING:
    from engine.entrypoints.offline.llm import LLM


@dataclass(frozen=True)
class Pass:
    """One pass over the set, or the part of it before Ctrl-C."""

    num_pairs: int
    num_tokens: int
    num_failed: int
    elapsed_s: float
    interrupted: bool = False

    @property
    def pairs_per_s(self) -> float:
        return self.num_pairs / self.elapsed_s

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.elapsed_s


def run(options: ThroughputOptions, load: Callable[[], LLM]) -> int:
    """Measure the engine that ``load`` gives; the exit status."""
    say_what_is_ignored(options)
    check_data_options(options, options.num_prompts)
    path = check_output(options.output_json, overwrite=options.overwrite)
    with load() as llm:
        tell(f"making the texts of {counted(options.num_prompts, 'pair')}")
        calls = load_calls(options, options.num_prompts, llm.spec.tokenizer_path)
        tell(f"scoring {sum(len(call.documents) for call in calls)} pairs of {len(calls)} calls with {llm.spec.name}")
        for call in calls[: options.num_warmups]:
            llm.score(call.query, call.documents, use_tqdm=False)
        passes: list[Pass] = []
        while len(passes) < options.num_repeats and not (passes and passes[-1].interrupted):
            passes.append(one_pass(llm, calls, show_progress=not options.disable_tqdm))
        model = llm.spec.name
    _show(passes, len(calls))
    best = max(passes, key=lambda p: p.pairs_per_s)
    result = {
        "elapsed_time": best.elapsed_s,
        "num_requests": best.num_pairs,
        "num_failed": best.num_failed,
        "total_num_tokens": best.num_tokens,
        "requests_per_second": best.pairs_per_s,
        "tokens_per_second": best.tokens_per_s,
        "passes": [[p.elapsed_s, p.num_pairs, p.num_tokens] for p in passes],
        "interrupted": passes[-1].interrupted,
    }
    save(path, result, options, model)
    return 130 if passes[-1].interrupted else 0


def one_pass(llm: LLM, calls: list[BenchCall], show_progress: bool) -> Pass:
    """All pairs as one N:N set; calls with several documents share their query inside it."""
    queries = [call.query for call in calls for _ in call.documents]
    documents = [document for call in calls for document in call.documents]
    num_pairs = num_tokens = num_failed = 0
    interrupted = False
    start = time.perf_counter()
    try:
        with Progress(len(documents), "pair", quiet=not show_progress) as progress:
            for output in llm.score_iter(queries, documents):
                num_pairs += 1
                num_tokens += len(output.prompt_token_ids)
                num_failed += output.error is not None
                progress.tick()
    except KeyboardInterrupt:
        interrupted = True
    return Pass(num_pairs, num_tokens, num_failed, time.perf_counter() - start, interrupted)


def _show(passes: list[Pass], num_calls: int) -> None:
    best = max(passes, key=lambda p: p.pairs_per_s)
    print(f"Throughput: {best.pairs_per_s:.2f} requests/s, {best.tokens_per_s:.2f} total tokens/s")
    print(f"{best.num_pairs} pairs of {num_calls} calls, {best.num_tokens} tokens, {best.elapsed_s:.3f} s")
    if best.num_failed:
        print(f"{best.num_failed} pairs have an error instead of a score.")
    if len(passes) > 1:
        median = statistics.median(p.pairs_per_s for p in passes)
        print(f"Best of {len(passes)} passes; the median is {median:.2f} requests/s")
    if passes[-1].interrupted:
        print("Interrupted: this is what was finished.")
