"""``engine bench plot``: one page from saved results, side by side, against load, or over time."""

from __future__ import annotations

from pathlib import Path

import msgspec

from engine.entrypoints.bench.options import PlotOptions
from engine.entrypoints.bench.plots import write_plots
from engine.entrypoints.bench.result_charts import Result, load_charts, regression_charts, result_name, run_charts
from engine.entrypoints.bench.results import check_writable
from engine.entrypoints.files.writing import check_absent
from engine.errors import ConfigError

NEEDED = ("latencies", "start_times", "document_throughput", "request_rate", "date")


def run(options: PlotOptions) -> int:
    """Write the page and the picture; the exit status."""
    results = load_results([Path(name) for name in options.results])
    results.sort(key=lambda result: (result_name(result), float(result["request_rate"]), result["date"]))
    stem = Path(options.output)
    written = [stem.with_name(stem.name + suffix) for suffix in (".html", ".png")]
    check_absent(*written, overwrite=options.overwrite)
    check_writable(stem.parent)
    if options.view == "regression":
        charts = regression_charts(results)
    elif options.view == "load":
        charts = load_charts(results, options.against)
    else:
        charts = run_charts(results)
    for path in write_plots(results, stem, charts):
        print(f"Plot: {path}")
    return 0


def load_results(paths: list[Path]) -> list[Result]:
    """All results in these files (one, or one a line) and folders; other JSON files of a folder are left out.

    Raises ``ConfigError`` where there is none, or a named file is none.
    """
    if not paths:
        raise ConfigError("engine bench plot: which results? Give --results FILE or FOLDER.")
    results = []
    for path in paths:
        if path.is_dir():
            results += [result for file in sorted(path.rglob("*.json")) for result in _read(file) if _is_result(result)]
            continue
        found = _read(path)
        if not found or not all(_is_result(result) for result in found):
            raise ConfigError(f"{path} is not a result of engine bench serve: it lacks one of {', '.join(NEEDED)}.")
        results += found
    if not results:
        raise ConfigError(f"No result of engine bench serve in {', '.join(map(str, paths))}.")
    return results


def _read(path: Path) -> list[Result]:
    try:
        content = path.read_bytes()
        return [msgspec.json.decode(line) for line in content.splitlines() if line.strip()]
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _read_whole(path)


def _read_whole(path: Path) -> list[Result]:
    """A file that was formatted over several lines by hand."""
    try:
        return [msgspec.json.decode(path.read_bytes())]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}.") from None


def _is_result(value: object) -> bool:
    return isinstance(value, dict) and all(key in value for key in NEEDED)
