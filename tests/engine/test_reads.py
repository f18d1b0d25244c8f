"""Prompts that are read at several tokens: every read comes back once, in order, whatever steps its prompt took."""

from __future__ import annotations

import numpy as np
import pytest

from engine.config import SchedulerConfig
from engine.errors import StepFailedError
from engine.messages import EngineCoreOutput, EngineCoreRequest
from engine.scheduling.scheduler import Scheduler
from engine.step import ModelRunnerOutput, SchedulerOutput, WorkerInfo


def scheduler(budget: int, *, causal: bool = True, capacity: int = 4096) -> Scheduler:
    info = WorkerInfo("cpu", "float32", capacity if causal else 0, 1, budget, 1, 0, 0.0)
    return Scheduler(SchedulerConfig(min_shared_tokens=4), info, None, causal, 512, lambda: 0.0)


def request(prompts: list[list[int]], reads: list[list[int]], key_lens: list[int] | None = None) -> EngineCoreRequest:
    return EngineCoreRequest(
        call_id="call",
        token_ids=np.concatenate(prompts).astype(np.int32),
        pair_lens=np.array([len(prompt) for prompt in prompts], np.int32),
        arrival_s=0.0,
        read_offsets=np.concatenate(reads).astype(np.int32),
        read_lens=np.array([len(read) for read in reads], np.int32),
        key_lens=None if key_lens is None else np.array(key_lens, np.int32),
    )


def answer(step: SchedulerOutput) -> ModelRunnerOutput:
    """Each read gives its token id and the number of tokens before it."""
    starts = step.segment_lens.cumsum() - step.segment_lens
    before = np.zeros(len(step.segment_lens), np.int64)
    for segment, context in enumerate(step.context_ids.tolist()):
        if context >= 0:
            ranges = step.context_ranges[step.context_indptr[context] : step.context_indptr[context + 1]]
            before[segment] = ranges[:, 1].sum()
    offsets = step.segment_lens[step.read_segments] - 1 if step.read_offsets is None else step.read_offsets
    ids = step.token_ids[starts[step.read_segments] + offsets]
    return ModelRunnerOutput(step.step_id, np.stack([ids, before[step.read_segments] + offsets], 1).astype(np.float32))


def run(one: Scheduler) -> list[EngineCoreOutput]:
    outputs: list[EngineCoreOutput] = []
    while (step := one.schedule()) is not None:
        outputs += one.update(answer(step))
    assert not one.has_work
    return outputs


PROMPTS = [
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    [1, 2, 3, 4, 5, 6, 20, 21],
    [1, 2, 3, 4, 5, 6, 20, 21],
    [30],
    [1, 2, 3, 4, 5, 6],
]
READS = [[0, 4, 9], [5, 6, 7], [2], [0], [5]]


@pytest.mark.parametrize("budget", [64, 6, 3, 1])
def test_every_read_comes_back_in_order(budget: int) -> None:
    one = scheduler(budget)
    one.add(request(PROMPTS, READS))
    found: dict[int, np.ndarray] = {}
    for output in run(one):
        for prompt, rows in zip(output.indices.tolist(), output.rows(), strict=True):
            assert prompt not in found
            found[prompt] = rows
    for prompt, (ids, reads) in enumerate(zip(PROMPTS, READS, strict=True)):
        assert found[prompt].tolist() == [[ids[read], read] for read in reads]


def test_seen_tokens_and_reads_of_models_that_attend_both_ways() -> None:
    one = scheduler(64, causal=False)
    one.add(request(PROMPTS, READS, key_lens=[3, 8, 8, 1, 6]))
    step = one.schedule()
    assert step is not None
    assert step.key_lens is not None
    assert step.segment_lens.tolist() == [10, 8, 1, 6]  # equal texts are one segment
    assert step.key_lens.tolist() == [3, 8, 1, 6]
    (output,) = one.update(answer(step))
    assert output.num_rows is not None
    assert output.num_rows.tolist() == [3, 3, 1, 1, 1]
    assert [rows[:, 1].tolist() for rows in output.rows()] == READS


def test_a_lost_step_is_replayed_for_whole_prompts() -> None:
    one = scheduler(4)
    one.add(request(PROMPTS[:1], READS[:1]))
    first = one.schedule()
    assert first is not None
    assert one.update(answer(first)) == []  # its first read is there, and the prompt is not complete
    assert one.schedule() is not None
    one.replay(StepFailedError("lost"))
    (output,) = run(one)
    assert output.rows()[0][:, 1].tolist() == READS[0]


def test_a_row_that_is_not_finite_fails_its_prompt_alone() -> None:
    one = scheduler(64, causal=False)
    one.add(request(PROMPTS[:2], READS[:2]))
    step = one.schedule()
    assert step is not None
    values = answer(step)
    values.values[1, 0] = np.nan
    (output,) = one.update(values)
    assert list(output.errors) == [0]
    assert output.indices.tolist() == [1]
    assert len(output.values) == 3


def test_what_was_answered_before_is_left_out_with_its_rows() -> None:
    output = EngineCoreOutput(
        "call", np.array([2, 0], np.int32), np.arange(5, dtype=np.float32)[:, None], num_rows=np.array([2, 3], np.int32)
    )
    fresh = output.without(np.array([False, False, True]))
    assert fresh.indices.tolist() == [0]
    assert fresh.values[:, 0].tolist() == [2, 3, 4]
    assert fresh.num_rows is not None
    assert fresh.num_rows.tolist() == [3]
