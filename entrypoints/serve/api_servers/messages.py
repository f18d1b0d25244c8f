"""What main and its fronts say to each other. Times are ``time.monotonic()``, which is one clock on one host."""

from __future__ import annotations

import msgspec

from engine.config import ModelConfig, ServerConfig
from engine.entrypoints.serve.service import State
from engine.logs import LogFormat
from engine.messages import EngineCoreOutput, EngineCoreRequest, WireError
from engine.model_spec import ModelSpec
from engine.step import WorkerInfo


class FrontSetup(msgspec.Struct):
    """What a front is started with."""

    server: ServerConfig
    index: int
    listener_fd: int
    counts_fd: int
    """Of the memory with everybody's number of connections."""
    folder: str
    """Of the channel."""
    started_at: int
    """Of the server: answers that name it do not change when a front is replaced."""
    is_late: bool
    """The models are loaded: no connection is taken before this front has them too."""
    log_level: str
    log_format: LogFormat


class FrontModel(msgspec.Struct, array_like=True, gc=False):
    """A loaded model, as far as a front needs it."""

    spec: ModelSpec
    config: ModelConfig
    info: WorkerInfo


class Count(msgspec.Struct, array_like=True, gc=False):
    """One sample of a counter or a histogram."""

    family: str
    name: str
    labels: dict[str, str]
    value: float


# -- main -> front ----------------------------------------------------------------------------------------------------


class Attach(msgspec.Struct, array_like=True, gc=False, tag="attach"):
    """The models are loaded: take calls."""

    models: list[FrontModel]


class StateChange(msgspec.Struct, array_like=True, gc=False, tag="state"):
    state: State
    cut_off: bool
    """What is still inside is to be answered with an error."""


class Entered(msgspec.Struct, array_like=True, gc=False, tag="entered"):
    """The answer to ``Enter``; a refusal is a ``CallFailed``."""

    call_id: str
    backlog_tokens: int


class Answer(msgspec.Struct, array_like=True, gc=False, tag="answer"):
    output: EngineCoreOutput


class CallFailed(msgspec.Struct, array_like=True, gc=False, tag="call_failed"):
    call_id: str
    error: WireError


class Status(msgspec.Struct, array_like=True, gc=False, tag="status"):
    number: int
    num_calls: int
    error: WireError | None
    """Why the server is not ready."""


class MetricsPage(msgspec.Struct, array_like=True, gc=False, tag="metrics"):
    number: int
    text: bytes


class SnapshotRequest(msgspec.Struct, array_like=True, gc=False, tag="snapshot"):
    number: int


class Stop(msgspec.Struct, array_like=True, gc=False, tag="stop"):
    """Take no connection any more, write the answers that are on their way, end."""


# -- front -> main ----------------------------------------------------------------------------------------------------


class Connected(msgspec.Struct, array_like=True, gc=False, tag="connected"):
    """The first message: main may speak now."""


class Attached(msgspec.Struct, array_like=True, gc=False, tag="attached"):
    """The models of ``Attach`` are there."""


class FrontFailed(msgspec.Struct, array_like=True, gc=False, tag="failed"):
    """The front cannot work, and another one could not either."""

    error: WireError


class Enter(msgspec.Struct, array_like=True, gc=False, tag="enter"):
    """May this call come in?"""

    call_id: str
    num_pairs: int
    num_tokens: int
    caller: str


class Run(msgspec.Struct, array_like=True, gc=False, tag="run"):
    model: int
    """Position among the models of the server."""
    request: EngineCoreRequest


class Leave(msgspec.Struct, array_like=True, gc=False, tag="leave"):
    """The call is given up before its last answer; its place is free, and what still runs of it is not wanted."""

    call_id: str


class StatusRequest(msgspec.Struct, array_like=True, gc=False, tag="status?"):
    number: int


class MetricsRequest(msgspec.Struct, array_like=True, gc=False, tag="metrics?"):
    number: int


class Snapshot(msgspec.Struct, array_like=True, gc=False, tag="counts"):
    """What this front has counted since it started; sent every second too, as a sign of life (``number`` 0)."""

    number: int
    counts: list[Count]


ToFront = Attach | StateChange | Entered | Answer | CallFailed | Status | MetricsPage | SnapshotRequest | Stop
FromFront = Connected | Attached | FrontFailed | Enter | Run | Leave | StatusRequest | MetricsRequest | Snapshot
