"""The commands of ``engine``: where each one is, and its line in ``engine --help``.

A command is ``name: (module:function, help)``; the function (or cyclopts app) has cyclopts annotations, and its module
is imported only when the command is asked for.
"""

from __future__ import annotations

import importlib.util

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("engine.entrypoints.cli.serve:serve", "Serve a model over HTTP."),
    "rerank": ("engine.entrypoints.cli.rerank:rerank", "Rank lines, paragraphs or files for a query."),
    "score": ("engine.entrypoints.cli.score:score", "Score pairs from files."),
    "run-batch": ("engine.entrypoints.cli.run_batch:run_batch", "Work through a file of OpenAI batch lines."),
    "mcp": ("engine.entrypoints.cli.mcp:mcp", "Offer the tool rerank over the Model Context Protocol."),
    "bench": ("engine.entrypoints.cli.bench:bench", "Measure a server or this machine."),
    "eval": ("engine.entrypoints.cli.eval:eval_", "Measure the quality of a model on judged data."),
    "check": ("engine.entrypoints.cli.check:check", "Show how one pair becomes a score."),
    "verify": ("engine.entrypoints.cli.verify:verify", "Compare a model with its reference in every dtype."),
    "plan": ("engine.entrypoints.cli.plan:plan", "Say what a model needs and what it will reach here."),
    "convert": ("engine.entrypoints.cli.convert:convert", "Write a checkpoint that needs no flags."),
    "clients": ("engine.entrypoints.cli.clients:clients", "Print settings for known clients."),
    "assets": ("engine.entrypoints.cli.assets:assets", "Print files for other programs: a Grafana dashboard."),
    "collect-env": ("engine.entrypoints.cli.collect_env:collect_env", "Print what a bug report needs to say."),
    "completion": ("engine.entrypoints.cli.completion:completion", "Print the completion of a shell."),
}


def present_commands() -> dict[str, tuple[str, str]]:
    """The commands of this installation; looking for a module does not import it."""
    return {name: entry for name, entry in COMMANDS.items() if importlib.util.find_spec(entry[0].partition(":")[0])}
