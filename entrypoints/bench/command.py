"""``engine bench WHAT``: one module for each of the measurements, loaded when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from engine.entrypoints.bench.arguments import unknown_flag
from engine.errors import ConfigError

COMMANDS = {
    "serve": ("engine.entrypoints.bench.serve", "measure a running server, any of several dialects"),
    "throughput": ("engine.entrypoints.bench.throughput", "pairs a second of this engine in process"),
    "latency": ("engine.entrypoints.bench.latency", "seconds a call of this engine in process"),
    "sweep": ("engine.entrypoints.bench.sweep", "many serve runs over rates or flags, resumable"),
    "plot": ("engine.entrypoints.bench.plot_results", "one HTML page from saved results"),
}


def main(argv: Sequence[str]) -> int:
    """Runs the named measurement; the exit status. Mistakes are ``StartupError``s for the command line to print."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        raise ConfigError(unknown_flag(argv[0], list(COMMANDS), "engine bench"))
    return int(importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:]))


def usage() -> str:
    rows = "\n".join(f"  {name:<12} {text}" for name, (_, text) in COMMANDS.items())
    return f"usage: engine bench COMMAND [options]\n\n{rows}\n\n`engine bench COMMAND --help` lists the options."
