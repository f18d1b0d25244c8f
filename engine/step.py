"""The two objects of one step: what the scheduler asks for, and what the model runner answers; and what workers are.

Both hold flat arrays, so a step costs no Python work per document after planning. Letters: T tokens of the step,
S segments, C distinct contexts, G context ranges, K keep ranges, R reads, O outputs of the head.

**Contexts.** A segment attends to the tokens of its ancestors and, causally, to its own. Siblings have the same
ancestors, so contexts are stored once and segments point at them. A context is a list of ranges ``(start, length)``:
``start < kv_capacity`` is a slot of the KV cache (computed in an earlier step), otherwise ``start - kv_capacity``
is a row of this very step.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np

Blame = Literal["unknown", "narrowed", "found"]
"""Who is to blame for a step that was lost: nobody is known yet; the pair that did it is among fewer than before; or it
was found. A loss that a pair explains says nothing bad about the worker."""


QUANTIZED_NOTE = "the checkpoint's weights are quantised"
"""How the note of a worker on the format of its checkpoint begins."""


FIRST_PICTURE_ID = 2**30
"""In the token ids of a call, this and larger ones stand for rows of its pictures, counted one picture after the other:
no id of a vocabulary is as large. So runs of tokens are equal where their pictures are."""


class StepPicture(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A picture that a step needs."""

    key: str
    """Of this picture of this call: what was computed of it may serve the next step too."""
    pixels: np.ndarray
    """(height, width, 3) uint8, its sides multiples of what one row of features covers."""


class SchedulerOutput(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """The plan of one step. All arrays but pixels are int32."""

    step_id: int
    token_ids: np.ndarray
    """(T,) tokens of all segments, one after the other; parents come before their children."""
    segment_lens: np.ndarray
    """(S,) lengths; they sum to T."""
    context_ids: np.ndarray
    """(S,) which context each segment sees; -1 is the empty one."""
    context_indptr: np.ndarray
    """(C + 1,) where each context's ranges begin in ``context_ranges``."""
    context_ranges: np.ndarray
    """(G, 2) start and length, in order from the root down."""
    keep_ranges: np.ndarray
    """(K, 3) first row, first slot, length: keys and values that must outlive the step."""
    read_segments: np.ndarray
    """(R,) segments that are read: at their last token (their first, with CLS pooling), where ``read_offsets`` is None.
    With ``read_offsets`` a segment stands here once for each of its reads."""
    token_type_ids: np.ndarray | None = None
    """(T,) only for models that have them."""
    adapter: str | None = None
    """LoRA adapter of every segment of the step."""
    read_offsets: np.ndarray | None = None
    """(R,) place of each read in its segment, for heads that read several tokens of a prompt."""
    key_lens: np.ndarray | None = None
    """(S,) leading tokens of each segment that are seen; those behind them see, and nobody sees them. Only of models
    that attend both ways. None: all tokens are seen."""
    position_shifts: np.ndarray | None = None
    """(T, 3) what is added to each token's place in its prompt to be its position in time, height and width, in a step
    with pictures before or among its tokens."""
    pictures: list[StepPicture] = []
    """Those of which this step has rows."""
    picture_rows: np.ndarray | None = None
    """(n, 3) the rows of the step that are no words, but features of a picture: row of the step, number of the picture
    in ``pictures``, row of its features. ``token_ids`` has 0 there."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_segments(self) -> int:
        return len(self.segment_lens)


class ModelRunnerOutput(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """The answer to one step."""

    step_id: int
    values: np.ndarray
    """(R, O) float32, in the order of ``read_segments``: logits (O = number of labels) or vectors."""
    device_s: float = 0.0
    """Seconds the device was busy with the step."""


class TPRank(msgspec.Struct, array_like=True, omit_defaults=True, frozen=True):
    """The number of a worker in its replica. They compute every step together, each with its share of the model."""

    index: int = 0
    """0 to ``size - 1``: which share. Worker 0 answers."""
    size: int = 1
    """``tensor_parallel_size``."""
    rendezvous_file: str = ""
    """Where the workers find each other at start: the path of a file that does not exist yet, in a folder that all of
    them can write to and nobody else can enter. So all of them are on one host. Empty for a worker alone."""


class WorkerInfo(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """The facts that a worker states once its model is loaded."""

    device: str
    dtype: str
    kv_capacity: int
    """Slots of the KV cache, in tokens; 0 for models without shared context."""
    kv_bytes_per_token: int
    max_num_batched_tokens: int
    num_outputs: int
    weight_bytes: int
    load_s: float
    peak_memory_bytes: int = 0
    notes: tuple[str, ...] = ()
    """Decisions worth one line at start: kernels chosen, slower paths taken and why."""
    fingerprint: str = ""
    """Of the files that were loaded; empty where weights are made up."""
