"""``engine COMMAND``: one file a command, imported when it is asked for, so that the command line starts fast.

A command is ``(module:function, help, group)``; the function (or cyclopts app) has cyclopts annotations. Mistakes end
in one sentence and an exit code: 2 for a wrong command line or setting, 1 for everything else. ``ENGINE_DEBUG=1`` shows
the traceback too.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from engine import __version__
from engine.errors import EngineError, StartupError

COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("engine.entrypoints.cli.serve:serve", "Serve a model over HTTP."),
    "rerank": ("engine.entrypoints.cli.rerank:rerank", "Rank lines, paragraphs or files for a query."),
    "score": ("engine.entrypoints.cli.score:score", "Score pairs from files."),
    "run-batch": ("engine.entrypoints.cli.run_batch:run_batch", "Work through a file of OpenAI batch lines."),
    "bench": ("engine.entrypoints.cli.bench:bench", "Measure a server or this machine."),
    "eval": ("engine.entrypoints.cli.eval:eval_", "Measure the quality of a model on judged data."),
    "check": ("engine.entrypoints.cli.check:check", "Show how one pair becomes a score."),
    "verify": ("engine.entrypoints.cli.verify:verify", "Compare a model with its reference in every dtype."),
    "plan": ("engine.entrypoints.cli.plan:plan", "Say what a model needs and what it will reach here."),
    "clients": ("engine.entrypoints.cli.clients:clients", "Print settings for known clients."),
    "assets": ("engine.entrypoints.cli.assets:assets", "Print files for other programs: a Grafana dashboard."),
    "collect-env": ("engine.entrypoints.cli.collect_env:collect_env", "Print what a bug report needs to say."),
    "completion": ("engine.entrypoints.cli.completion:completion", "Print the completion of a shell."),
}


def present_commands() -> dict[str, tuple[str, str]]:
    """The commands of this installation; looking for a module does not import it."""
    return {name: entry for name, entry in COMMANDS.items() if importlib.util.find_spec(entry[0].partition(":")[0])}


def main(argv: Sequence[str] | None = None) -> None:
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """One command line; returns the exit code."""
    from cyclopts.exceptions import CycloptsError

    from engine.entrypoints.cli.app import build_app

    try:
        result = build_app(argv)(
            _tokens(argv), exit_on_error=False, print_error=False, result_action="return_value", help_on_error=False
        )
        return result if isinstance(result, int) else 0
    except CycloptsError as error:
        return _fail(_one_line(error), 2)
    except StartupError as error:
        return _fail(str(error), error.exit_code)
    except EngineError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output left; say no more
        return 0


def _tokens(argv: list[str]) -> list[str]:
    from engine.entrypoints.cli.arguments import normalise

    return normalise(argv)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _fail(message: str, code: int) -> int:
    if os.environ.get("ENGINE_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    print(f"engine: {message}", file=sys.stderr)
    return code


def version_text() -> str:
    return f"engine {__version__}"
