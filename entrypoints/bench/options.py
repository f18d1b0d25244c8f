"""The flags of ``engine bench``, with the names and defaults that vLLM's bench has where it has them."""

from __future__ import annotations

from dataclasses import dataclass

from engine.entrypoints.bench.arguments import flag, ignored

SERVER, DATA, LOAD, RESULT, COMPARE = "server", "data", "load", "results", "comparison"
DATASETS = ("random-rerank", "jsonl", "beir")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which pairs are sent."""

    dataset_name: str = flag(
        "random-rerank", "Where queries and documents come from.", group=DATA, choices=DATASETS, aliases=("dataset",)
    )
    dataset_path: str | None = flag(None, "JSONL file or BEIR folder.", group=DATA)
    random_batch_size: int = flag(1, "Documents in one call.", group=DATA, aliases=("documents-per-call",))
    random_input_len: int = flag(
        1024, "Tokens of query and document together, template not counted.", group=DATA, aliases=("input-len",)
    )
    random_range_ratio: float = flag(0.0, "Lengths vary by this share around the target, in [0, 1).", group=DATA)
    random_prefix_len: int = flag(0, "Tokens that all documents begin with.", group=DATA)
    shared_query_ratio: float = flag(
        0.0, "Share of calls that use one and the same query; 1 is what vLLM's bench does.", group=DATA
    )
    no_reranker: bool = flag(False, "Query and document have the full length each.", group=DATA)
    skip_broken_lines: bool = flag(False, "Leave out dataset lines that cannot be used, and say how many.", group=DATA)
    tokenizer: str | None = flag(None, "Folder or hub id of the tokenizer that measures lengths.", group=DATA)
    skip_tokenizer_init: bool = flag(False, "No tokenizer: texts are plain words, one counted as a token.", group=DATA)
    tokenizer_mode: str = ignored("auto", "there is one tokenizer, the fast one", group=DATA)
    trust_remote_code: bool = ignored(False, "code from a checkpoint is never run", group=DATA)
    seed: int = flag(0, "Same seed, same texts and arrival times.", group=DATA)


@dataclass(frozen=True, kw_only=True)
class ServeOptions(DataOptions):
    """``engine bench serve``."""

    num_prompts: int = flag(1000, "How many documents are scored in all.", group=DATA)
    backend: str = flag("rerank", "Dialect of the server.", group=SERVER, aliases=("endpoint-type",))
    base_url: str | None = flag(None, "Address of the server, instead of host and port.", group=SERVER)
    host: str = flag("127.0.0.1", "Its host.", group=SERVER)
    port: int = flag(8000, "Its port.", group=SERVER)
    endpoint: str | None = flag(None, "Path of the rerank route; by default the dialect's own.", group=SERVER)
    model: str | None = flag(None, "Model name in the calls; by default the first that the server lists.", group=SERVER)
    served_model_name: str | None = flag(None, "Model name in the calls, where it differs from --model.", group=SERVER)
    header: tuple[str, ...] = flag((), "Extra headers.", group=SERVER, metavar="NAME=VALUE")
    extra_body: str | None = flag(None, "JSON object merged into every call.", group=SERVER, metavar="JSON")
    insecure: bool = flag(False, "Do not check TLS certificates.", group=SERVER)
    stream: bool = flag(False, "Ask for scores as they finish and measure the first (dialect rerank).", group=SERVER)
    request_timeout_s: float = flag(600.0, "A call without an answer by then has failed.", group=SERVER)
    ready_check_timeout_sec: float = flag(0.0, "Wait this long for the server to become ready.", group=SERVER)
    request_id_prefix: str | None = flag(None, "Start of every X-Request-Id.", group=SERVER)

    request_rate: float = flag(float("inf"), "Calls a second; inf sends all at once.", group=LOAD)
    burstiness: float = flag(1.0, "1: Poisson arrivals; below: burstier; above: more regular.", group=LOAD)
    max_concurrency: int | None = flag(None, "Most calls under way at once; waiting is counted.", group=LOAD)
    ramp_up_strategy: str | None = flag(None, "Let the rate grow.", group=LOAD, choices=("linear", "exponential"))
    ramp_up_start_rps: float | None = flag(None, "First rate of the ramp.", group=LOAD)
    ramp_up_end_rps: float | None = flag(None, "Last rate of the ramp.", group=LOAD)
    num_warmups: int = flag(0, "Calls before the clock starts.", group=LOAD)
    probe_request_rate: float = flag(0.0, "Extra one-document calls a second, measured apart.", group=LOAD)

    goodput: tuple[str, ...] = flag((), "A call is good within these limits.", group=RESULT, metavar="e2el:MS|ttfs:MS")
    percentile_metrics: str = flag("e2el", "Blocks to print: e2el, queue, ttfs.", group=RESULT)
    metric_percentiles: str = flag("99", "Percentiles to print, separated by commas.", group=RESULT)
    save_result: bool = flag(False, "Write a JSON file.", group=RESULT)
    append_result: bool = flag(False, "Append one line of JSON instead of writing a file.", group=RESULT)
    save_detailed: bool = flag(False, "Also lengths and errors of every call.", group=RESULT)
    result_dir: str | None = flag(None, "Folder of the JSON file and the plots.", group=RESULT)
    result_filename: str | None = flag(None, "Name of the JSON file.", group=RESULT)
    label: str | None = flag(None, "Name of this run, in place of the backend's.", group=RESULT)
    metadata: tuple[str, ...] = flag((), "Extra keys of the JSON file.", group=RESULT, metavar="NAME=VALUE")
    plot: bool = flag(False, "Write one self-contained HTML page and a PNG.", group=RESULT)
    disable_tqdm: bool = flag(False, "No progress bar.", group=RESULT)
    profile: bool = ignored(False, "start the server with --profile DIR instead", group=RESULT)

    compare: str | None = flag(None, "Address of a second server, measured in turn.", group=COMPARE, metavar="URL")
    compare_backend: str | None = flag(None, "Its dialect; by default the same.", group=COMPARE)
    compare_endpoint: str | None = flag(None, "Path of its rerank route.", group=COMPARE)
    compare_model: str | None = flag(None, "Its model name.", group=COMPARE)
    compare_rounds: int = flag(10, "Blocks that the calls are split into; A and B take turns.", group=COMPARE)


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions(DataOptions):
    """``engine bench throughput``; every other flag is one of the engine's."""

    model: str | None = flag(None, "Model to load; by default the packaged one.", group=SERVER)
    num_prompts: int = flag(1000, "How many documents are scored in all.", group=DATA)
    num_warmups: int = flag(1, "Calls before the clock starts.", group=LOAD)
    num_repeats: int = flag(1, "Times the whole set is scored; the best and the median are printed.", group=LOAD)
    output_json: str | None = flag(None, "Write the result here.", group=RESULT)
    disable_tqdm: bool = flag(False, "No progress bar.", group=RESULT)


@dataclass(frozen=True, kw_only=True)
class LatencyOptions(DataOptions):
    """``engine bench latency``; every other flag is one of the engine's."""

    model: str | None = flag(None, "Model to load; by default the packaged one.", group=SERVER)
    random_batch_size: int = flag(8, "Documents in one call.", group=DATA, aliases=("batch-size",))
    num_iters_warmup: int = flag(10, "Calls before the clock starts.", group=LOAD)
    num_iters: int = flag(30, "Calls measured, each with another query.", group=LOAD)
    output_json: str | None = flag(None, "Write the result here.", group=RESULT)
    disable_tqdm: bool = flag(False, "No progress bar.", group=RESULT)


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """``engine bench sweep``; every other flag is one of ``engine bench serve``."""

    vary: tuple[str, ...] = flag((), "Values of bench flags, every combination is run.", metavar="FLAG=A,B,C")
    vary_serve: tuple[str, ...] = flag((), "Values of server flags; needs --serve-cmd.", metavar="FLAG=A,B,C")
    serve_cmd: str | None = flag(None, "Command that starts the server, once for each combination of server flags.")
    start_timeout_s: float = flag(600.0, "How long a started server may take to become ready.")
    result_dir: str = flag("bench-sweep", "Folder of the results; finished runs in it are not repeated.")
