"""``engine bench WHAT``: one measurement each. Abbreviated flags are accepted, as in other benches."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from engine.entrypoints.bench.flags import DEFAULTS, expand
from engine.entrypoints.bench.options import (
    LatencyOptions,
    PlotOptions,
    ServeOptions,
    SweepOptions,
    ThroughputOptions,
)
from engine.entrypoints.cli.flags import flags
from engine.entrypoints.flag_kinds import FLAT

NO_CONFIG: tuple[()] = ()
"""Settings of a server in the environment are not those of who measures it."""
bench = App(name="bench", help="Measure a server or this machine.", default_parameter=DEFAULTS)
OPTIONS: dict[str, tuple[type[Any], ...]] = {
    "serve": (ServeOptions,),
    "throughput": (ThroughputOptions,),
    "latency": (LatencyOptions,),
    "sweep": (SweepOptions, ServeOptions),
    "plot": (PlotOptions,),
}


def unabbreviated(argv: list[str]) -> list[str]:
    """``bench serve --random-input 200`` -> ``bench serve --random-input-len 200``."""
    known = OPTIONS.get(argv[1], ()) if len(argv) > 1 else ()
    return [*argv[:2], *expand(argv[2:], *known)]


@bench.command(config=NO_CONFIG)
def serve(*, options: Annotated[ServeOptions, FLAT] = ServeOptions()) -> int:
    """Measure a running rerank server: any that speaks one of the dialects."""
    from engine.entrypoints.bench.serve import run

    return run(options)


@bench.command
@flags(("model", "scheduler", "device"), model_as_flag=True, own_flags=ThroughputOptions)
def throughput(values: dict[str, Any], *, options: Annotated[ThroughputOptions, FLAT] = ThroughputOptions()) -> int:
    """Score a set of pairs in process: pairs a second when the engine has all of them at once."""
    from engine.entrypoints.bench.throughput import run
    from engine.entrypoints.cli.loading import announce_model, load_model

    announce_model(values)
    return run(options, lambda: load_model(values, own_texts=True))


@bench.command
@flags(("model", "scheduler", "device"), model_as_flag=True, own_flags=LatencyOptions)
def latency(values: dict[str, Any], *, options: Annotated[LatencyOptions, FLAT] = LatencyOptions()) -> int:
    """Time single calls in process: seconds a call when the engine has nothing else to do."""
    from engine.entrypoints.bench.latency import run
    from engine.entrypoints.cli.loading import announce_model, load_model

    announce_model(values)
    return run(options, lambda: load_model(values, own_texts=True))


@bench.command(config=NO_CONFIG)
def sweep(
    *words: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    options: Annotated[SweepOptions, FLAT] = SweepOptions(),
) -> int:
    """Run `engine bench serve` for every combination of the values given with --vary, and go on where it stopped.

    Every other flag is one of `engine bench serve`.
    """
    from engine.entrypoints.bench.sweep import run

    return run(options, words)


@bench.command(config=NO_CONFIG)
def plot(*, options: Annotated[PlotOptions, FLAT] = PlotOptions()) -> int:
    """Draw saved results as one HTML page: side by side, against load, or over time."""
    from engine.entrypoints.bench.plot_results import run

    return run(options)
