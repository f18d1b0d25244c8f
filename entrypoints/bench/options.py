"""The flags of ``engine bench``, with the names and defaults that vLLM's bench has where it has them.

A field is a flag, and the text below it is its help.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from engine.entrypoints.bench.flags import ignored

SERVER, DATA, LOAD, RESULT, COMPARE = (
    Parameter(group=Group(name, sort_key=place))
    for place, name in enumerate(("Server", "Texts", "Load", "Results", "Comparison"))
)
NAMED_VALUES = Parameter(metavar="NAME=VALUE", consume_multiple=True)
VALUES = Parameter(metavar="FLAG=A,B,C", consume_multiple=True)


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of the pairs that are sent."""

    dataset_name: Annotated[Literal["random-rerank", "jsonl", "beir"], DATA, Parameter(alias="--dataset")] = (
        "random-rerank"
    )
    """Where queries and documents come from."""
    dataset_path: Annotated[str | None, DATA] = None
    """JSONL file or BEIR folder."""
    random_batch_size: Annotated[int, DATA, Parameter(alias="--documents-per-call")] = 1
    """Documents in one call."""
    random_input_len: Annotated[int, DATA, Parameter(alias="--input-len")] = 1024
    """Tokens of query and document together, template not counted."""
    random_range_ratio: Annotated[float, DATA] = 0.0
    """Lengths vary by this share around the target, in [0, 1)."""
    random_prefix_len: Annotated[int, DATA] = 0
    """Tokens that all documents begin with."""
    shared_query_ratio: Annotated[float, DATA] = 0.0
    """Share of calls that use one and the same query; 1 is what vLLM's bench does."""
    no_reranker: Annotated[bool, DATA] = False
    """Query and document have the full length each."""
    skip_broken_lines: Annotated[bool, DATA] = False
    """Leave out dataset lines that cannot be used, and say how many."""
    tokenizer: Annotated[str | None, DATA] = None
    """Folder or hub id of the tokenizer that measures lengths."""
    skip_tokenizer_init: Annotated[bool, DATA] = False
    """No tokenizer: texts are plain words, one counted as a token."""
    tokenizer_mode: Annotated[str, DATA, ignored("there is one tokenizer, the fast one")] = "auto"
    trust_remote_code: Annotated[bool, DATA, ignored("code from a checkpoint is never run")] = False
    seed: Annotated[int, DATA] = 0
    """Same seed, same texts and arrival times."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions(DataOptions):
    """``engine bench serve``."""

    num_prompts: Annotated[int, DATA] = 1000
    """How many documents are scored in all."""
    backend: Annotated[str, SERVER, Parameter(alias="--endpoint-type")] = "rerank"
    """Dialect of the server."""
    base_url: Annotated[str | None, SERVER] = None
    """Address of the server, instead of host and port."""
    host: Annotated[str, SERVER] = "127.0.0.1"
    """Its host."""
    port: Annotated[int, SERVER] = 8000
    """Its port."""
    endpoint: Annotated[str | None, SERVER] = None
    """Path of the rerank route; by default the dialect's own."""
    model: Annotated[str | None, SERVER] = None
    """Model name in the calls; by default the first that the server lists."""
    served_model_name: Annotated[str | None, SERVER] = None
    """Model name in the calls, where it differs from --model."""
    header: Annotated[tuple[str, ...], SERVER, NAMED_VALUES] = ()
    """Extra headers."""
    extra_body: Annotated[str | None, SERVER, Parameter(metavar="JSON")] = None
    """JSON object merged into every call."""
    insecure: Annotated[bool, SERVER] = False
    """Do not check TLS certificates."""
    stream: Annotated[bool, SERVER] = False
    """Ask for scores as they finish and measure the first (dialect rerank)."""
    request_timeout_s: Annotated[float, SERVER] = 600.0
    """A call without an answer by then has failed."""
    ready_check_timeout_sec: Annotated[float, SERVER] = 0.0
    """Wait this long for the server to become ready."""
    request_id_prefix: Annotated[str | None, SERVER] = None
    """Start of every X-Request-Id."""
    request_rate: Annotated[float, LOAD] = float("inf")
    """Calls a second; inf sends all at once."""
    burstiness: Annotated[float, LOAD] = 1.0
    """1: Poisson arrivals; below: burstier; above: more regular."""
    max_concurrency: Annotated[int | None, LOAD] = None
    """Most calls under way at once; waiting is counted."""
    ramp_up_strategy: Annotated[Literal["linear", "exponential"] | None, LOAD] = None
    """Let the rate grow."""
    ramp_up_start_rps: Annotated[float | None, LOAD] = None
    """First rate of the ramp."""
    ramp_up_end_rps: Annotated[float | None, LOAD] = None
    """Last rate of the ramp."""
    num_warmups: Annotated[int, LOAD] = 0
    """Calls before the clock starts."""
    probe_request_rate: Annotated[float, LOAD] = 0.0
    """Extra one-document calls a second, measured apart."""
    goodput: Annotated[tuple[str, ...], RESULT, Parameter(metavar="e2el:MS|ttfs:MS", consume_multiple=True)] = ()
    """A call is good within these limits."""
    percentile_metrics: Annotated[str, RESULT] = "e2el"
    """Blocks to print: e2el, queue, ttfs."""
    metric_percentiles: Annotated[str, RESULT] = "99"
    """Percentiles to print, separated by commas."""
    save_result: Annotated[bool, RESULT] = False
    """Write a JSON file."""
    append_result: Annotated[bool, RESULT] = False
    """Append one line of JSON instead of writing a file."""
    save_detailed: Annotated[bool, RESULT] = False
    """Also lengths and errors of every call."""
    result_dir: Annotated[str | None, RESULT] = None
    """Folder of the JSON file and the plots."""
    result_filename: Annotated[str | None, RESULT] = None
    """Name of the JSON file."""
    label: Annotated[str | None, RESULT] = None
    """Name of this run, in place of the backend's."""
    metadata: Annotated[tuple[str, ...], RESULT, NAMED_VALUES] = ()
    """Extra keys of the JSON file."""
    plot: Annotated[bool, RESULT] = False
    """Write one self-contained HTML page and a PNG."""
    overwrite: Annotated[bool, RESULT] = False
    """Replace files that exist already."""
    disable_tqdm: Annotated[bool, RESULT] = False
    """No progress bar."""
    profile: Annotated[bool, RESULT, ignored("start the server with --profile DIR instead")] = False
    compare: Annotated[str | None, COMPARE, Parameter(metavar="URL")] = None
    """Address of a second server, measured in turn."""
    compare_backend: Annotated[str | None, COMPARE] = None
    """Its dialect; by default the same."""
    compare_endpoint: Annotated[str | None, COMPARE] = None
    """Path of its rerank route."""
    compare_model: Annotated[str | None, COMPARE] = None
    """Its model name."""
    compare_rounds: Annotated[int, COMPARE] = 10
    """Blocks that the calls are split into; A and B take turns."""


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions(DataOptions):
    """``engine bench throughput``; the model and every other flag are the engine's."""

    num_prompts: Annotated[int, DATA] = 1000
    """How many documents are scored in all."""
    num_warmups: Annotated[int, LOAD] = 1
    """Calls before the clock starts."""
    num_repeats: Annotated[int, LOAD] = 1
    """Times the whole set is scored; the best and the median are printed."""
    output_json: Annotated[str | None, RESULT] = None
    """Write the result here."""
    overwrite: Annotated[bool, RESULT] = False
    """Replace files that exist already."""
    disable_tqdm: Annotated[bool, RESULT] = False
    """No progress bar."""


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(DataOptions):
    """``engine bench latency``; the model and every other flag are the engine's."""

    random_batch_size: Annotated[int, DATA, Parameter(alias="--batch-size")] = 8
    """Documents in one call."""
    num_iters_warmup: Annotated[int, LOAD] = 10
    """Calls before the clock starts."""
    num_iters: Annotated[int, LOAD] = 30
    """Calls measured, each with another query."""
    output_json: Annotated[str | None, RESULT] = None
    """Write the result here."""
    overwrite: Annotated[bool, RESULT] = False
    """Replace files that exist already."""
    disable_tqdm: Annotated[bool, RESULT] = False
    """No progress bar."""


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """``engine bench sweep``; every other flag is one of ``engine bench serve``."""

    vary: Annotated[tuple[str, ...], VALUES] = ()
    """Values of bench flags, every combination is run."""
    vary_serve: Annotated[tuple[str, ...], VALUES] = ()
    """Values of server flags; needs --serve-cmd."""
    serve_cmd: str | None = None
    """Command that starts the server, once for each combination of server flags."""
    start_timeout_s: float = 600.0
    """How long a started server may take to become ready."""
    result_dir: str = "bench-sweep"
    """Folder of the results; finished runs in it are not repeated."""


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """``engine bench plot``."""

    results: Annotated[tuple[str, ...], Parameter(metavar="PATH", consume_multiple=True)] = ()
    """Result files, or folders of them."""
    view: Literal["runs", "load", "regression"] = "runs"
    """What is drawn."""
    against: str = "request_rate"
    """The setting on the axis of --view load."""
    output: Annotated[str, Parameter(metavar="NAME")] = "bench"
    """Name of the page and the picture, without suffix."""
    overwrite: bool = False
    """Replace files that exist already."""
