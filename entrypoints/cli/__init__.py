"""``engine COMMAND``: one file a command, imported when it is asked for, so that the command line starts fast.

The commands are listed in ``commands.py``. Mistakes end in one sentence and an exit code: 2 for a wrong command line or
setting, 1 for everything else. ``ENGINE_DEBUG=1`` shows the traceback too.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

from engine.errors import EngineError, StartupError


def main(argv: Sequence[str] | None = None) -> None:
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """One command line; returns the exit code."""
    from cyclopts.exceptions import CycloptsError

    from engine.entrypoints.cli.environment import with_origin

    try:
        return execute(argv)
    except CycloptsError as error:
        from engine.entrypoints.cli.usage import sentence

        return _fail(sentence(error), 2)
    except StartupError as error:
        return _fail(with_origin(error, argv), error.exit_code)
    except EngineError as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output left; say no more
        return 0
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        return _fail(f"{str(error.filename)[:100]}: {error.strerror}.", 2)


def execute(argv: list[str]) -> int:
    """One command line; returns the exit code, and raises ``CycloptsError`` or ``EngineError`` for what is wrong."""
    from engine.entrypoints.cli.app import build_app, with_peer_flags

    app = build_app(argv)
    if {"--help", "-h"} & set(argv):
        from engine.entrypoints.cli.help_page import describe

        describe(app, argv)
    result = app(
        _tokens(with_peer_flags(app, argv)),
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
        help_on_error=False,
    )
    return result if isinstance(result, int) else 0


def _tokens(argv: list[str]) -> list[str]:
    from engine.entrypoints.cli.arguments import normalise

    words = normalise(argv)
    if words[:1] == ["bench"]:
        from engine.entrypoints.cli.bench import unabbreviated

        words = unabbreviated(words)
    return words


def _fail(message: str, code: int) -> int:
    if os.environ.get("ENGINE_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    print(f"engine: {message}", file=sys.stderr)
    return code
