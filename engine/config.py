"""Every setting, frozen, with its default in one place. The command line is derived from these classes.

``EngineConfig`` is what one engine needs (model, scheduler, device); ``ServerConfig`` is what only the HTTP server
needs. ``resolve()`` methods return new objects; nothing is changed after that. Sizes are tokens, pairs or bytes as the
name says; times end in ``_s``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from engine.devices import DeviceName

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
ExecutorName = Literal["auto", "uni", "mp", "ray"]
ModelImpl = Literal["auto", "transformers"]
LoadFormat = Literal["auto", "safetensors", "dummy"]
PrefixCache = Literal["off", "template", "query"]
Quantization = Literal["int16", "int8", "int4", "fp8", "w8a8"]

BYTES_PER_NUMBER: dict[str, float] = {
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int16": 2,
    "int8": 1.0625,
    "int4": 0.5625,
    "fp8": 1,
    "w8a8": 1,
}
"""Of a weight in each dtype and quantisation; int8 is made in groups of 128, int4 of 64. Scales of rows are not worth
counting."""


def grouped_bytes(group: int, bits: int = 4, *, has_offsets: bool) -> float:
    """The bytes of a weight that stays in groups on a device: with fp32 scales and offsets, if not narrower."""
    return bits / 8 + 4 * (2 if has_offsets else 1) / group


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of the model: which one, and how its files become a scorer."""

    model: str = ""
    """Local folder or hub id. Empty: the small reranker that the package carries."""
    tokenizer: str | None = None
    """Local folder or hub id of another tokenizer. None: the model's own."""
    revision: str | None = None
    """Branch, tag or commit of the model on the hub. None: its main branch."""
    tokenizer_revision: str | None = None
    """The same for the tokenizer. None: as for the model."""
    served_model_name: tuple[str, ...] = ()
    """Names that calls may use; the first one is in the answers. Empty: the name of the model."""
    hf_overrides: dict[str, Any] = field(default_factory=dict)
    """Keys of config.json to replace; only the documented ones are allowed (docs/models.md)."""
    dtype: Dtype = "auto"
    """What the model computes in. auto: what suits checkpoint and device."""
    quantization: Quantization | None = None
    """Compute the linear layers in this precision; `engine verify` says what it costs. None: the model's dtype."""
    load_format: LoadFormat = "auto"
    """Where the weights come from; dummy: random ones, for measuring without a download."""
    model_impl: ModelImpl = "auto"
    """Who computes the network. auto: the engine. transformers: any class for sequence classification of the installed
    library, as it runs it; exact, and several times slower."""
    max_model_len: int | None = None
    """Longest pair in tokens, template included. None: what the model was made for."""
    max_docs_per_block: int | None = None
    """Most documents in one prompt of a listwise model. None: as many as it was published with."""
    document_store_bytes: int = 0
    """Most bytes of document vectors that a late-interaction model keeps between calls, in each API server. Entries are
    found by the same caller and cache_salt only, since a hit shows in the time of an answer. 0: none are kept."""
    max_images_per_pair: int = 4
    """Most pictures of a query and its document together, for a model that reads pictures. 0: it serves texts only, and
    its vision tower is not loaded."""
    allowed_image_hosts: tuple[str, ...] = ()
    """Host names from which pictures may be fetched (https, and http; no redirects, no private addresses). Empty:
    pictures come as data URLs only."""
    score_template: str = "auto"
    """``auto`` (the model's own), ``none``, the name of a built-in prompt, or the path of a template file."""
    ignore_config_key: tuple[str, ...] = ()
    """Keys of config.json (and ``base_model`` of README.md) that may be ignored although their meaning is not known."""
    disable_sliding_window: bool = False
    """Refuse a model whose layers see a window of tokens only: scores without windows would not be its own."""
    instruction: str | None = None
    """Default instruction; None: the one of the model's template."""
    seed: int = 0
    """Seed of the random weights of ``--load-format dummy``."""
    lora_modules: dict[str, str] = field(default_factory=dict)
    """LoRA adapters on this model: the name that calls use, and the folder of the adapter."""
    runtime_lora_folders: tuple[str, ...] = ()
    """Folders from which callers may load further LoRA adapters while the server runs (/v1/load_lora_adapter). None:
    adapters change only with a restart."""


@dataclass(frozen=True, kw_only=True)
class SchedulerConfig:
    """Limits of one step and of what is kept between steps."""

    max_num_batched_tokens: int | None = None
    """Token budget of one step. None: chosen by the backend."""
    max_num_seqs: int = 1024
    """Most segments in one step."""
    max_segment_tokens: int | None = None
    """Longer runs are cut into chunks of this length. None: the token budget."""
    min_shared_tokens: int = 8
    """A shared run shorter than this is computed per pair: a segment costs more than it saves."""
    kv_cache_tokens: int | None = None
    """Keys and values kept between steps, in tokens. None: enough for the longest pair and a few callers."""
    prefix_cache: PrefixCache = "template"
    """What outlives its call: nothing, the constant template, or also queries (shared between callers!)."""
    prefix_store_tokens: int | None = None
    """Byte budget of the store, expressed in tokens. None: a quarter of ``kv_cache_tokens``."""
    ageing_tokens_per_s: float = 20_000.0
    """Tokens of priority (``priority_tokens``) that one second of waiting outweighs, among the oldest calls."""
    priority_tokens: float = 100_000.0
    """Tokens of work, of backlog or of ageing that one unit of priority outweighs."""
    pipeline_depth: int = 2
    """Steps planned ahead of the device, the running one included."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Devices that a Ray cluster has set aside for one replica."""

    address: str
    """Of the cluster."""
    group: str
    """Name of the placement group."""
    bundle: int | None = None
    """The bundle with all devices of this replica; None: every worker has a bundle of its own."""


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Settings of the device: which one, and with how many processes the model runs there."""

    device: DeviceName = "auto"
    """auto: the first that is usable, other devices before the CPU; the log says which, and why."""
    executor: ExecutorName = "auto"
    """Where the workers run: uni in the process of the core, mp in processes of their own, ray in processes that a Ray
    cluster places (RAY_ADDRESS, or one on this machine); auto: mp under serve."""
    tensor_parallel_size: int = 1
    """Devices of one host that share one model, each with a part of it; on a CPU, processes."""
    data_parallel_size: int = 1
    """Copies of the model, each with its own devices or cores; calls are spread over them."""
    first_rank: int = field(default=0, metadata={"internal": True})
    """Number of the first device of this replica; set by the data-parallel client."""
    placement: Placement | None = field(default=None, metadata={"internal": True})
    """Set by the data-parallel client where Ray places the workers."""
    cpu_threads: int | None = None
    """Threads of a worker on the CPU. None: the physical cores that this process may use, divided among the workers
    that share a model."""
    cpu_pin: bool = False
    """Give each worker cores of its own."""
    gpu_memory_utilization: float | None = None
    """Share of the device's memory that may be used. None: the backend decides."""
    gpu_memory_bytes: int | None = None
    """The same in bytes."""
    enforce_eager: bool = False
    """Capture no graphs: slower, and easier to debug."""
    skip_self_test: bool = False
    """Do not compare the device's kernels with plain torch at start (a second or two, on GPUs and NPUs)."""
    step_timeout_s: float = 300.0
    """A step, or a core, that shows no progress for so long is killed, and its work is done again."""
    max_worker_restarts: int = 3
    """Workers (and cores) replaced within five minutes before the server gives up and ends."""
    profile: str | None = None
    """Write a trace and a per-op table into this folder."""
    enable_fault_injection: bool = False
    """For tests: break things as the variable ENGINE_FAULTS says. Nothing happens unless both are set."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """One engine: one model on one set of devices."""

    model: ModelConfig = field(default_factory=ModelConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)

    def with_scheduler(self, **changes: Any) -> Self:
        return replace(self, scheduler=replace(self.scheduler, **changes))


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The HTTP server."""

    host: str = "127.0.0.1"
    """Address to listen on; other than loopback only with a key."""
    port: int = 8000
    """Port to listen on. 0: a free one, which the log names."""
    uds: str | None = None
    """Listen on this Unix socket instead of host and port; who may open the file may call."""
    grpc_port: int | None = None
    """Also serve the gRPC of text-embeddings-inference (Rerank, RerankStream, Info) on this port (the extra `grpc`)."""
    ssl_certfile: str | None = None
    """Speak HTTPS with this certificate (PEM); it is read again when the file changes."""
    ssl_keyfile: str | None = None
    """Its key. None: in the same file."""
    ssl_keyfile_password: str | None = None
    """Password of the key."""
    ssl_ca_certs: str | None = None
    """Authorities whose certificates clients may show."""
    ssl_cert_reqs: Literal[0, 1, 2] = 0
    """Whether clients must show one: 0 no, 1 it is checked if there is one, 2 yes."""
    ssl_ciphers: str | None = None
    """Ciphers in the words of OpenSSL. None: its own choice."""
    api_key: tuple[str, ...] = ()
    """A key that callers must send; may be given several times. None: everybody on this machine may call."""
    api_key_file: str | None = None
    """A file with such keys, one on each line, which no list of processes shows."""
    insecure_no_auth: bool = False
    """Allow a non-loopback address without a key."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that are answered for (``*``: any). None: without a key on a loopback address, those that mean
    loopback; otherwise any."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages that browsers may call from (CORS), like https://app.example.com; ``*``: all. None: no pages but the
    server's own."""
    allowed_methods: tuple[str, ...] = ("GET", "POST", "PUT")
    """Methods that such pages may use."""
    allowed_headers: tuple[str, ...] = ("*",)
    """Headers that such pages may send."""
    allow_credentials: bool = False
    """Such pages may send cookies and the like."""
    disable_fastapi_docs: bool = False
    """No /docs and no /openapi.json."""
    root_path: str = ""
    """Prefix that a proxy puts before every path."""
    dialect: str | None = None
    """Answer in this dialect wherever request and route leave it open."""
    strict: bool = False
    """Refuse unknown fields instead of ignoring and counting them."""
    auto_truncate: bool = True
    """Cut texts that are too long, unless the call says otherwise. Off: such calls are refused, unless they say so."""
    max_body_bytes: int = 32 * 1024 * 1024
    """Largest body of a call, in bytes."""
    max_documents: int = 10_000
    """Most documents of a call."""
    max_queue_seconds: float = 5.0
    """Longest wait, by the measured speed; calls that would wait longer are refused at once. 0: no limit."""
    max_queued_pairs: int = 100_000
    """Pairs in flight; calls beyond it are refused at once."""
    max_queued_tokens: int = 50_000_000
    """Tokens in flight; calls beyond it are refused at once."""
    overload_status: Literal[503, 429] = 503
    """HTTP status of calls that are refused because the queue is full."""
    header_timeout_s: float = 10.0
    """A connection that has not sent all headers of a request in this time is closed, however steadily it sends."""
    body_timeout_s: float = 30.0
    """A body must arrive in this time, or at 64 KiB/s or more; otherwise the answer is 408."""
    max_connections: int = 8192
    """Most open connections; beyond it, the one that has waited longest without a request is closed."""
    drain_delay_s: float = 0.0
    """After the signal to stop, calls are still taken for so long while /ready says 503: load balancers notice."""
    shutdown_timeout_s: float = 30.0
    """Calls in flight are finished within this time after the signal to stop; the rest is answered with an error."""
    tokenizer_threads: int = 2
    """Threads that tokenise calls, in each API server."""
    api_server_count: int = 1
    """API server processes behind the one port: each has HTTP and tokenisation; they share one queue and one engine."""
    log_format: Literal["text", "json"] = "text"
    """Log lines for people, or a JSON object on each line for collectors."""
    log_level: str = "info"
    """debug, info, warning, error or critical."""
    disable_log_stats: bool = False
    """Do not log calls, tokens and queue every ten seconds."""
    enable_sleep_mode: bool = False
    """Callers may have the models give their memory back and load them again (/sleep, /wake_up)."""
    otlp_traces_endpoint: str | None = None
    """Send OpenTelemetry traces of calls to this collector (OTLP over HTTP, like http://collector:4318)."""
