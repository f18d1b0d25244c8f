"""What crosses a process border: msgspec structs, MessagePack on the wire, nothing pickled.

Front end -> core: ``EngineCoreRequest``, ``AbortRequest``, ``ResetPrefixCacheRequest``, ``OperationRequest``,
``ShutdownRequest``. Core -> front end: ``CoreReady``, ``CoreHealth``, ``CoreFailed``, ``EngineCoreOutputs``,
``OperationDone``. Core -> worker: ``StepRequest``, ``OperationRequest``. Worker -> core: ``WorkerReady``,
``StepResult``, ``OperationDone``, ``WorkerFailed``.
NumPy arrays travel as ``engine/arrays.py`` writes them.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec
import numpy as np

from engine.arrays import decode_array, encode_array
from engine.errors import EngineError, FieldPath, error_class
from engine.step import ModelRunnerOutput, SchedulerOutput, WorkerInfo

STEP_TOKEN_BOUNDS = tuple(2**power for power in range(5, 18))
"""Upper bounds of the histogram of step sizes; one more count is for larger ones."""


class WireError(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """An ``EngineError`` between two processes. ``of`` makes it, ``rebuilt`` turns it back; nothing is lost."""

    type: str
    template: str
    """The message; ``errors.PARAM`` in it stands for ``path``."""
    path: FieldPath = ()
    retry_after_s: float | None = None
    code: str | None = None

    @classmethod
    def of(cls, error: EngineError) -> Self:
        """``error`` in the form in which it travels."""
        return cls(error.type, error.template, error.path, error.retry_after_s, error.code)

    def rebuilt(self) -> EngineError:
        """The error again, of the class that has this ``type``."""
        class_ = error_class(self.type)
        return class_(self.template, param=self.path, retry_after_s=self.retry_after_s, code=self.code)


class EngineCoreRequest(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, tag="call"):
    """One call: all its pairs, as validated token ids."""

    call_id: str
    token_ids: np.ndarray
    """(sum of lengths,) int32: the pairs' whole prompts, one after the other."""
    pair_lens: np.ndarray
    """(P,) int32: tokens of each pair."""
    arrival_s: float
    """``time.monotonic()`` of the host when the call came in."""
    priority: int = 0
    """Lower runs earlier."""
    token_type_ids: np.ndarray | None = None
    query_lens: np.ndarray | None = None
    """(P,) int32 hint where to cut: leading tokens that depend on template, instruction and query only."""
    deadline_s: float | None = None
    """``time.monotonic()`` after which the call's waiting pairs are answered with an error."""
    adapter: str | None = None
    cache_scope: str = ""
    """Prefixes kept between calls are shared only within one scope (the constant template excepted)."""
    backlog_tokens: int = 0
    """Tokens that the same caller still had to have computed when this call came, in calls that are short or no longer.
    The call stands behind others by as much."""
    read_offsets: np.ndarray | None = None
    """(sum of ``read_lens``,) int32: places of the tokens that are read, ascending in a prompt, prompt after prompt.
    None: every prompt is read once, at its end."""
    read_lens: np.ndarray | None = None
    """(P,) int32: reads of each prompt, at least one."""
    key_lens: np.ndarray | None = None
    """(P,) int32: leading tokens of each prompt that are seen. None: all."""
    pictures: list[np.ndarray] = []
    """(height, width, 3) uint8 each, all different. ``token_ids`` from ``FIRST_PICTURE_ID`` on are their rows."""
    picture_lens: np.ndarray | None = None
    """(pictures,) int32: rows of each."""
    position_shifts: np.ndarray | None = None
    """(sum of lengths, 3) int32: as ``SchedulerOutput`` has them, of a call with pictures."""

    @property
    def num_pairs(self) -> int:
        """Prompts that the core scores (of a bi-encoder, texts that it embeds)."""
        return len(self.pair_lens)


class AbortRequest(msgspec.Struct, array_like=True, gc=False, tag="abort"):
    """Gives up what has not run of these calls."""

    call_ids: list[str]


class ShutdownRequest(msgspec.Struct, array_like=True, gc=False, tag="shutdown"):
    """Asks the receiver to finish what was accepted, then end."""


class ResetPrefixCacheRequest(msgspec.Struct, array_like=True, gc=False, tag="reset_prefix_cache"):
    """Forgets what is kept of earlier calls' queries."""


class LoadAdapter(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="load_adapter"):
    """Load a LoRA adapter under a name, in place of one that has it."""

    name: str
    folder: str
    fingerprint: str
    """Of the files in ``folder`` when they were asked for: a replaced worker must find the same ones. Empty: those of
    the start, which the fingerprint of the model covers."""


class UnloadAdapter(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="unload_adapter"):
    """Forget a LoRA adapter."""

    name: str


class Sleep(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="sleep"):
    """Give the memory of the weights back."""


class WakeUp(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="wake_up"):
    """Load the weights again."""


AdapterChange = LoadAdapter | UnloadAdapter
Operation = LoadAdapter | UnloadAdapter | Sleep | WakeUp


class OperationRequest(msgspec.Struct, array_like=True, gc=False, tag="operation"):
    """Asks for an operation. It is done between steps, once no call needs what it changes."""

    number: int
    operation: Operation


class OperationDone(msgspec.Struct, array_like=True, gc=False, tag="operation_done"):
    """The answer to ``OperationRequest``."""

    number: int
    error: WireError | None = None


class CallStats(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """The cost of a call, sent with its last output."""

    logical_tokens: int
    computed_tokens: int
    queue_s: float
    """Arrival until the first of its segments entered a step."""
    compute_s: float
    """First step until last score."""
    num_steps: int


class EngineCoreOutput(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """Some pairs of one call, finished in one step; every pair is answered exactly once."""

    call_id: str
    indices: np.ndarray
    """(n,) int32 positions of the pairs in the call."""
    values: np.ndarray
    """(n, O) float32: the outputs of the head; (sum of ``num_rows``, O) for prompts that are read several times."""
    errors: dict[int, WireError] = {}
    """Errors of pairs that failed, by position in the call; they are not in ``indices``."""
    stats: CallStats | None = None
    """Present when the call is complete."""
    num_rows: np.ndarray | None = None
    """(n,) int32: rows of ``values`` of each pair, one after the other. None: one each."""

    def rows(self) -> list[np.ndarray]:
        """(rows, O) values of each pair of ``indices``."""
        ends = np.arange(1, len(self.indices)) if self.num_rows is None else self.num_rows.cumsum()[:-1]
        return np.split(self.values, ends)

    def without(self, answered: np.ndarray) -> EngineCoreOutput:
        """Only what was not answered before; a replay scores whole calls. ``answered``: (P,) flags of the call's pairs,
        in which this answer is then entered."""
        again = answered[self.indices]
        errors = {index: error for index, error in self.errors.items() if not answered[index]}
        fresh = self
        if again.any() or len(errors) < len(self.errors):
            rows = self.num_rows
            values = self.values[~again if rows is None else (~again).repeat(rows)]
            num_rows = None if rows is None else rows[~again]
            fresh = EngineCoreOutput(self.call_id, self.indices[~again], values, errors, self.stats, num_rows)
        answered[fresh.indices] = True
        if errors:
            answered[list(errors)] = True
        return fresh


class SchedulerStats(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """Running totals since the start, and the present state; the difference of two is a rate."""

    num_waiting_calls: int = 0
    num_waiting_pairs: int = 0
    num_waiting_tokens: int = 0
    num_steps: int = 0
    logical_tokens: int = 0
    computed_tokens: int = 0
    finished_pairs: int = 0
    aborted_pairs: int = 0
    replayed_pairs: int = 0
    device_s: float = 0.0
    step_fill: float = 0.0
    """Mean share of the token budget used, so far."""
    prefix_hits: int = 0
    prefix_lookups: int = 0
    prefix_store_tokens: int = 0
    kv_used_tokens: int = 0
    worker_restarts: int = 0
    finished_calls: int = 0
    step_token_counts: list[int] = []
    """Steps by their tokens, one count for each of ``STEP_TOKEN_BOUNDS`` and one for the rest. Empty: none yet."""


class EngineCoreOutputs(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, tag="outputs"):
    """The outputs of one step, for all calls that it had pairs of."""

    outputs: list[EngineCoreOutput] = []
    stats: SchedulerStats | None = None
    step_tokens: int = 0


class CoreReady(msgspec.Struct, array_like=True, gc=False, tag="ready"):
    """The first message of a core: the model is loaded."""

    info: WorkerInfo


class CoreFailed(msgspec.Struct, array_like=True, gc=False, tag="failed"):
    """The core cannot go on, or could not start. The code ``GAVE_UP``: a new core would not help either."""

    error: WireError


class CoreHealth(msgspec.Struct, array_like=True, gc=False, tag="health"):
    """Whether steps can run at the moment; False while a lost worker is being replaced."""

    ready: bool
    reason: str


class WorkerReady(msgspec.Struct, array_like=True, gc=False, tag="worker_ready"):
    """The first message of a worker: the model is loaded."""

    info: WorkerInfo


class WorkerFailed(msgspec.Struct, array_like=True, gc=False, tag="worker_failed"):
    """One step (or the start) failed in the worker, which itself goes on."""

    step_id: int
    error: WireError
    out_of_memory: bool = False


class StepRequest(msgspec.Struct, array_like=True, gc=False, tag="step"):
    """One step to run."""

    scheduler_output: SchedulerOutput


class StepResult(msgspec.Struct, array_like=True, gc=False, tag="result"):
    """The values of one step."""

    output: ModelRunnerOutput


ToCore = EngineCoreRequest | AbortRequest | ShutdownRequest | ResetPrefixCacheRequest | OperationRequest
FromCore = CoreReady | CoreFailed | CoreHealth | EngineCoreOutputs | OperationDone
ToWorker = StepRequest | OperationRequest | ShutdownRequest
FromWorker = WorkerReady | WorkerFailed | StepResult | OperationDone


def encoder() -> msgspec.msgpack.Encoder:
    """An encoder of all messages of this module."""
    return msgspec.msgpack.Encoder(enc_hook=encode_array)


def decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    """A decoder of the messages of one direction, e.g. ``ToCore``."""
    return msgspec.msgpack.Decoder(type_, dec_hook=decode_array)
