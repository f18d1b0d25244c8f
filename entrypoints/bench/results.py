"""The JSON result: vLLM's keys, and those it lacks; a full disk costs nothing that was already there."""

from __future__ import annotations

import datetime
import math
import os
import platform
import re
from pathlib import Path
from typing import Any

import msgspec

import engine
from engine.entrypoints.bench.arrivals import rate_changes
from engine.entrypoints.bench.options import ServeOptions
from engine.entrypoints.bench.samples import Run
from engine.entrypoints.bench.summary import Spread, Summary, spread
from engine.entrypoints.bench.target import named_values
from engine.entrypoints.files.writing import check_absent
from engine.errors import ConfigError, StartupError


def result_of(run: Run, summary: Summary, options: ServeOptions, model: str) -> dict[str, Any]:
    """The result of a run as JSON values."""
    return {
        **_identity(options, model),
        **_totals(run, summary),
        "latencies": [s.latency_s for s in run.completed],
        "queue_times": [s.queued_s for s in run.completed],
        "start_times": [s.sent_s for s in run.completed],
        **_spread_keys("e2el", summary.latency),
        **_spread_keys("queue_time", summary.queue),
        **_spread_keys("queue_inclusive_e2el", summary.inclusive),
        **_concurrency_keys(summary, options),
        **({} if summary.first_score is None else _spread_keys("ttfs", summary.first_score)),
        **_probe_keys(run),
        **_ramp_keys(run, options),
        "error_counts": dict(summary.errors),
        **(_detailed_keys(run) if options.save_detailed else {}),
        "tokens_counted_by_client": summary.tokens_counted_here,
        "server_metrics": run.server_metrics,
        "step_tokens": [[bound if math.isfinite(bound) else None, count] for bound, count in run.step_tokens],
        "options": data_settings(options),
        "environment": environment(),
    }


def _identity(options: ServeOptions, model: str) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now().strftime("%Y%m%d-%H%M%S"),
        "endpoint_type": options.backend,
        "backend": options.backend,
        "label": options.label,
        "model_id": model,
        "tokenizer_id": options.tokenizer or model,
        "num_prompts": options.num_prompts,
        **named_values("--metadata", options.metadata),
        "request_rate": options.request_rate if math.isfinite(options.request_rate) else "inf",
        "burstiness": options.burstiness,
        "max_concurrency": options.max_concurrency,
    }


def _totals(run: Run, summary: Summary) -> dict[str, Any]:
    return {
        "duration": run.duration_s,
        "completed": summary.completed,
        "failed": summary.failed,
        "interrupted": run.interrupted,
        "total_input_tokens": summary.total_tokens,
        "total_input_sequences": summary.completed,
        "total_documents": summary.num_documents,
        "request_throughput": summary.requests_per_s,
        "input_sequence_throughput": summary.requests_per_s,
        "document_throughput": summary.documents_per_s,
        "total_token_throughput": summary.tokens_per_s,
        "request_goodput": summary.good_per_s,
        "good_share": summary.good_share,
    }


def _detailed_keys(run: Run) -> dict[str, Any]:
    ordered = sorted(run.samples, key=lambda s: s.index)
    return {"input_lens": [s.num_tokens for s in ordered], "errors": [s.error or "" for s in ordered]}


def data_settings(options: Any) -> dict[str, Any]:
    """The settings that decide which texts are sent: two results compare only where these agree."""
    names = ("dataset_name", "random_input_len", "random_batch_size", "random_range_ratio", "random_prefix_len")
    return {name: getattr(options, name) for name in (*names, "shared_query_ratio", "seed")}


def environment() -> dict[str, Any]:
    return {
        "engine": engine.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.processor()


def _spread_keys(name: str, values: Spread) -> dict[str, float]:
    percentiles = {f"p{p:g}_{name}_ms": value for p, value in values.percentiles_ms.items()}
    mean = {f"mean_{name}_ms": values.mean_ms, f"median_{name}_ms": values.median_ms, f"std_{name}_ms": values.std_ms}
    return {**mean, **percentiles}


def _probe_keys(run: Run) -> dict[str, Any]:
    if not run.probes:
        return {}
    seconds = [p.latency_s for p in run.probes if p.ok]
    values = spread(seconds, (99.0,))
    return {
        "probe_completed": len(seconds),
        "probe_failed": len(run.probes) - len(seconds),
        "probe_median_e2el_ms": values.median_ms,
        "probe_p99_e2el_ms": values.percentiles_ms[99.0],
        "probe_max_e2el_ms": max(seconds, default=0.0) * 1000.0,
    }


def _concurrency_keys(summary: Summary, options: ServeOptions) -> dict[str, Any]:
    """vLLM's names of the waits in the client, which it gives where it has them."""
    if options.max_concurrency is None:
        return {}
    queue = _spread_keys("client_queue_time", summary.queue)
    return queue | _spread_keys("e2el_including_client_queue", summary.inclusive)


def _ramp_keys(run: Run, options: ServeOptions) -> dict[str, Any]:
    if options.ramp_up_strategy is None:
        return {}
    names = ("ramp_up_strategy", "ramp_up_start_rps", "ramp_up_end_rps")
    changes = rate_changes(options, len(run.samples) + run.num_unfinished)
    return {
        **{name: getattr(options, name) for name in names},
        "rps_change_events": [
            {"rps": rate, "timestamp": datetime.datetime.fromtimestamp(run.started_at + time_s).isoformat()}
            for rate, time_s in changes
            if time_s <= run.duration_s
        ],
    }


def default_filename(options: ServeOptions, model: str) -> str:
    rate = options.request_rate if math.isfinite(options.request_rate) else "inf"
    concurrency = "" if options.max_concurrency is None else f"-concurrency{options.max_concurrency}"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{options.label or options.backend}-{rate}qps{concurrency}-{model.rstrip('/').split('/')[-1]}-{stamp}.json"
    return re.sub(r"[^\w.+-]", "_", name)


def result_path(options: ServeOptions, model: str) -> Path:
    """The path of the result; the folder is made and tried out before anything is measured."""
    folder = Path(options.result_dir or ".").expanduser()
    check_writable(folder)
    path = folder / (options.result_filename or default_filename(options, model))
    if options.save_result and not options.append_result:
        check_absent(path, overwrite=options.overwrite)
    if options.plot:
        check_absent(path.with_suffix(".html"), path.with_suffix(".png"), overwrite=options.overwrite)
    return path


def check_writable(folder: Path) -> None:
    """Raises ``ConfigError`` for a folder of results that cannot be written to."""
    trial = folder / f".engine-bench-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.write_bytes(b"x" * 4096)
        trial.unlink()
    except OSError as error:
        trial.unlink(missing_ok=True) if folder.is_dir() else None
        raise ConfigError(f"The result folder {folder} cannot be written to: {error.strerror}.") from None


def write_bytes(path: Path, content: bytes) -> None:
    """All of it under its final name, or nothing under that name and a ``StartupError``."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StartupError(f"{path} could not be written: {error.strerror}. The summary above is complete.") from None


def write_result(path: Path, result: dict[str, Any]) -> None:
    write_bytes(path, msgspec.json.encode(result) + b"\n")


def append_result(path: Path, result: dict[str, Any]) -> None:
    """One more line; a line that does not fit is taken back, so that the file stays readable.

    Raises ``StartupError`` for one that cannot be written.
    """
    line = msgspec.json.encode(result) + b"\n"
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(line)
    except OSError as error:
        if path.exists():
            os.truncate(path, size)
        raise StartupError(f"{path} could not be written: {error.strerror}. The summary above is complete.") from None
