"""``engine bench sweep``: many serve runs over rates or flags. A run that is finished is a file, and is not repeated.

The file's name holds what was varied and a digest of every other option, so a sweep that was interrupted goes on where
it stopped, and another sweep in the same folder does not take its results for its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from engine.entrypoints.bench.flags import parse
from engine.entrypoints.bench.options import ServeOptions, SweepOptions
from engine.entrypoints.bench.plot_results import load_results
from engine.entrypoints.bench.plots import write_plots
from engine.entrypoints.bench.report import heading
from engine.entrypoints.bench.result_charts import Result, load_charts, load_value
from engine.entrypoints.bench.results import check_writable, write_result
from engine.entrypoints.bench.serve import INTERRUPTED, check_options, measure
from engine.entrypoints.bench.target import target_of
from engine.errors import ConfigError, StartupError

Setting = tuple[tuple[str, str], ...]
"""(flag, value) of one combination."""


def run(options: SweepOptions, rest: Sequence[str]) -> int:
    """Run ``engine bench serve`` with the flags ``rest`` for every combination; the exit status.

    Raises ``ConfigError`` for flags of a server without its command.
    """
    bench = combinations("--vary", options.vary)
    servers = combinations("--vary-serve", options.vary_serve)
    if len(servers) > 1 and options.serve_cmd is None:
        raise ConfigError("--vary-serve needs --serve-cmd, the command that starts the server.")
    for setting in bench:
        check_options(serve_options(rest, setting))
    folder = Path(options.result_dir).expanduser()
    check_writable(folder)
    done: list[Path] = []
    for server in servers:
        missing = [s for s in bench if not result_file(folder, rest, server, s).exists()]
        done += [result_file(folder, rest, server, s) for s in bench if s not in missing]
        if not missing:
            continue
        with running_server(options, server, target_of(serve_options(rest, missing[0])).base_url):
            for setting in missing:
                path = result_file(folder, rest, server, setting)
                if not _run(rest, server, setting, path):
                    _conclude(folder, done, options)
                    return INTERRUPTED
                done += [path] if path.exists() else []
    _conclude(folder, done, options)
    return 0


def combinations(flag: str, words: tuple[str, ...]) -> list[Setting]:
    """Every combination of the values; one empty combination when nothing is varied.

    Raises ``ConfigError`` for a word that is no ``FLAG=A,B``.
    """
    axes = []
    for word in words:
        name, sign, values = word.partition("=")
        if not sign or not name or not values:
            raise ConfigError(f"{flag} {word!r}: write FLAG=A,B,C.")
        axes.append([(name.lstrip("-").replace("_", "-"), value) for value in values.split(",")])
    return list(itertools.product(*axes))


def serve_options(rest: Sequence[str], setting: Setting) -> ServeOptions:
    words = [*rest, *(word for name, value in setting for word in (f"--{name}", value))]
    return parse(ServeOptions, words)


def result_file(folder: Path, rest: Sequence[str], server: Setting, setting: Setting) -> Path:
    digest = hashlib.sha256(repr((sorted(rest), server, setting)).encode()).hexdigest()[:10]
    spelled = "_".join(f"{name}-{value}" for name, value in (*server, *setting)) or "run"
    return folder / f"{re.sub(r'[^A-Za-z0-9.+-]', '_', spelled)[:120]}_{digest}.json"


def _run(rest: Sequence[str], server: Setting, setting: Setting, path: Path) -> bool:
    """One measurement; False when it was interrupted. Only a run with answers leaves a file."""
    print(heading(" " + (", ".join(f"{name}={value}" for name, value in (*server, *setting)) or "run") + " ", "#"))
    serve = serve_options(rest, setting)
    label = ", ".join(f"{name}={value}" for name, value in server) or serve.label
    serve = replace(serve, label=label, save_result=False, append_result=False, plot=False)
    measured = asyncio.run(measure(serve))
    interrupted = any(m.run.interrupted for m in measured)
    if not interrupted and all(m.run.completed for m in measured):
        write_result(path, measured[0].result(serve))
        print(f"Result: {path}")
    return not interrupted


@contextmanager
def running_server(options: SweepOptions, setting: Setting, base_url: str) -> Iterator[None]:
    """The server started with these flags and stopped at the end; nothing when it is somebody else's.

    Raises ``ConfigError`` for a command that cannot be started.
    """
    if options.serve_cmd is None:
        yield
        return
    words = [*shlex.split(options.serve_cmd), *(word for name, value in setting for word in (f"--{name}", value))]
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ConfigError(f"--serve-cmd {words[0]!r} cannot be started: {error.strerror}.") from None
    try:
        _await_health(process, base_url, options.start_timeout_s, shlex.join(words))
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_health(process: subprocess.Popen[bytes], base_url: str, wait_s: float, command: str) -> None:
    """Until ``/health`` answers 200; a server that ends meanwhile is an error at once."""
    deadline = time.monotonic() + wait_s
    while True:
        if process.poll() is not None:
            raise StartupError(f"The server ended with status {process.returncode} before it was ready: {command}")
        with suppress(OSError), urllib.request.urlopen(base_url + "/health", timeout=5) as response:
            if response.status == 200:
                return
        if time.monotonic() > deadline:
            raise StartupError(f"The server was not ready within {wait_s:g} s (--start-timeout-s): {command}")
        time.sleep(0.1)


def _conclude(folder: Path, paths: list[Path], options: SweepOptions) -> None:
    """Table and page of everything that is finished."""
    if not paths:
        return
    results = load_results(paths)
    print("\n".join(table(results)))
    varied = combinations("--vary", options.vary)[0]
    axis = varied[0][0].replace("-", "_") if varied else "request_rate"
    if any(load_value(result, axis) is not None for result in results):
        for path in write_plots(results, folder / "sweep", load_charts(results, axis)):
            print(f"Plot: {path}")


def table(results: list[Result]) -> Iterator[str]:
    yield heading(" Sweep ", "=")
    yield f"{'run':<44}{'calls/s':>10}{'docs/s':>10}{'good/s':>10}{'median ms':>12}{'P99 ms':>12}{'failed':>8}"
    for result in results:
        goodput = result.get("request_goodput")
        name = f"{result.get('label') or result['backend']} rate={result['request_rate']} c={result['max_concurrency']}"
        yield (
            f"{name[:43]:<44}{result['request_throughput']:>10.2f}{result['document_throughput']:>10.2f}"
            f"{'-' if goodput is None else f'{goodput:.2f}':>10}{result['median_e2el_ms']:>12.2f}"
            f"{result.get('p99_e2el_ms', 0.0):>12.2f}{result['failed']:>8}"
        )
