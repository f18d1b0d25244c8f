"""The messages between the coordinator and its API servers. Times are ``time.monotonic()``, one clock on one host."""

from __future__ import annotations

import msgspec

from engine.config import ModelConfig, ServerConfig
from engine.entrypoints.serve.admission import CallSize
from engine.entrypoints.serve.operations import ServerOperation
from engine.entrypoints.serve.service import State
from engine.logs import LogFormat
from engine.messages import EngineCoreOutput, EngineCoreRequest, WireError
from engine.model_spec import ModelSpec
from engine.step import WorkerInfo


class ApiServerSetup(msgspec.Struct):
    """The set-up of an API server process."""

    server: ServerConfig
    index: int
    listener_fd: int
    counts_fd: int
    """Descriptor of the shared memory of ``ConnectionCounts``."""
    folder: str
    """The private folder of the channel's sockets."""
    started_at: int
    """Unix time of the server's start: answers that name it do not change when an API server is replaced."""
    is_late: bool
    """The models are loaded already: no connection is accepted before this API server has them too."""
    log_level: str
    log_format: LogFormat


class ApiServerModel(msgspec.Struct, array_like=True, gc=False):
    """The facts of a loaded model that an API server needs."""

    spec: ModelSpec
    config: ModelConfig
    info: WorkerInfo
    adapters: dict[str, str]
    """Name -> fingerprint of those that are loaded now: ``LoadedEngine.adapters``."""


class Count(msgspec.Struct, array_like=True, gc=False):
    """One sample of a counter or a histogram."""

    family: str
    name: str
    labels: dict[str, str]
    value: float


# -- coordinator -> API server ----------------------------------------------------------------------------------------


class Attach(msgspec.Struct, array_like=True, gc=False, tag="attach"):
    """The models are loaded: take calls for them."""

    models: list[ApiServerModel]


class StateChange(msgspec.Struct, array_like=True, gc=False, tag="state"):
    """The state of the server has changed."""

    state: State
    cut_off: bool
    """Calls in flight are to be answered with an error."""
    asleep: bool = False


class AdaptersChanged(msgspec.Struct, array_like=True, gc=False, tag="adapters"):
    """The LoRA adapters of a model are these now. Answered by ``AdaptersKnown`` when no call uses another one."""

    number: int
    model: int
    """Number of the model among those of the server."""
    adapters: dict[str, str]


class Operated(msgspec.Struct, array_like=True, gc=False, tag="operated"):
    """The answer to ``Operate``."""

    number: int
    error: WireError | None


class Admitted(msgspec.Struct, array_like=True, gc=False, tag="admitted"):
    """The answer to ``AdmitRequest``; a refusal is a ``CallFailed``."""

    call_id: str
    backlog_tokens: int


class CallOutput(msgspec.Struct, array_like=True, gc=False, tag="output"):
    """The pairs of a call that a step finished; the last one carries ``stats``."""

    output: EngineCoreOutput


class CallFailed(msgspec.Struct, array_like=True, gc=False, tag="call_failed"):
    """The call was refused, or has ended with an error."""

    call_id: str
    error: WireError


class Status(msgspec.Struct, array_like=True, gc=False, tag="status"):
    """The answer to ``StatusRequest``."""

    number: int
    num_calls: int
    error: WireError | None
    """Why the server is not ready; None: it is."""


class MetricsPage(msgspec.Struct, array_like=True, gc=False, tag="metrics"):
    """The answer to ``MetricsRequest``: Prometheus text of the whole server."""

    number: int
    text: bytes


class SnapshotRequest(msgspec.Struct, array_like=True, gc=False, tag="snapshot"):
    """Asks for the counters of an API server."""

    number: int


class Stop(msgspec.Struct, array_like=True, gc=False, tag="stop"):
    """Accept no more connections, write the answers in flight, end."""


# -- API server -> coordinator ----------------------------------------------------------------------------------------


class Connected(msgspec.Struct, array_like=True, gc=False, tag="connected"):
    """The first message: the coordinator may send from now on."""


class Attached(msgspec.Struct, array_like=True, gc=False, tag="attached"):
    """The models of ``Attach`` are ready here: their tokenizers are loaded."""


class ApiServerFailed(msgspec.Struct, array_like=True, gc=False, tag="failed"):
    """The API server cannot work, and a new one could not either."""

    error: WireError


class AdmitRequest(msgspec.Struct, array_like=True, gc=False, tag="admit"):
    """Asks for a permit for a call, before it is tokenised. Answered by ``Admitted`` or ``CallFailed``."""

    call_id: str
    size: CallSize
    caller: str
    model: str = ""
    client_timeout_s: float | None = None


class Run(msgspec.Struct, array_like=True, gc=False, tag="run"):
    """The pairs of an admitted call, tokenised."""

    model: int
    """Number of the model among those of the server."""
    request: EngineCoreRequest


class AbortCall(msgspec.Struct, array_like=True, gc=False, tag="abort"):
    """The call is given up before its last output: its permit is free, and what still runs of it is aborted."""

    call_id: str


class ResetPrefixCache(msgspec.Struct, array_like=True, gc=False, tag="reset_prefix_cache"):
    """Keys and values that a model's core keeps between calls are to be dropped."""

    model: int
    """Number of the model among those of the server."""


class AdaptersKnown(msgspec.Struct, array_like=True, gc=False, tag="adapters_known"):
    """The answer to ``AdaptersChanged``."""

    number: int


class Operate(msgspec.Struct, array_like=True, gc=False, tag="operate"):
    """A caller wants something changed. Answered by ``Operated``."""

    number: int
    operation: ServerOperation


class StatusRequest(msgspec.Struct, array_like=True, gc=False, tag="status?"):
    """Asks whether the server is ready, and how many calls are in flight."""

    number: int


class MetricsRequest(msgspec.Struct, array_like=True, gc=False, tag="metrics?"):
    """Asks for the metrics of the whole server."""

    number: int


class Snapshot(msgspec.Struct, array_like=True, gc=False, tag="counts"):
    """The counters of this API server since its start. Also sent every second as the heartbeat (``number`` 0)."""

    number: int
    counts: list[Count]


ToApiServer = (
    Attach
    | StateChange
    | AdaptersChanged
    | Operated
    | Admitted
    | CallOutput
    | CallFailed
    | Status
    | MetricsPage
    | SnapshotRequest
    | Stop
)
FromApiServer = (
    Connected
    | Attached
    | ApiServerFailed
    | AdmitRequest
    | Run
    | AbortCall
    | ResetPrefixCache
    | AdaptersKnown
    | Operate
    | StatusRequest
    | MetricsRequest
    | Snapshot
)
