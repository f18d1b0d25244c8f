"""Renders Jinja templates for the process that started this one, within limits on time, memory and output.

A template comes with a checkpoint, and its sandbox bounds what it may touch, not what it may cost: loops in loops,
strings times a billion. One job a line of standard input, one answer a line of standard output, both JSON; it ends when
nothing comes for a while.
"""

from __future__ import annotations

import json
import resource
import select
import sys
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_S = 5
MEMORY_BYTES = 512 * 2**20
IDLE_S = 2.0
MAX_CHARS = 2**20
"""Of a rendered prompt."""
ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)


def rendered(job: dict[str, Any]) -> str:
    """The text of a job: ``text`` is the template, ``values`` what it may use.

    Raises ``MemoryError`` for a text that is too long.
    """
    environment = ImmutableSandboxedEnvironment(
        keep_trailing_newline=job["keep_newline"],
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.globals["raise_exception"] = _raise
    del environment.globals["lipsum"]  # text at random is in no prompt
    parts, num_chars = [], 0
    for part in environment.from_string(job["text"]).generate(**job["values"]):
        num_chars += len(part)
        if num_chars > MAX_CHARS:
            raise MemoryError
        parts.append(part)
    return "".join(parts)


def _raise(message: str) -> NoReturn:
    """``raise_exception`` of templates written for transformers."""
    raise TemplateError(message)


def answer(job: dict[str, Any]) -> dict[str, str]:
    """``text``, or the ``error`` of the template, or the ``limit`` that it broke."""
    try:
        return {"text": rendered(job)}
    except MemoryError:
        return {"limit": f"more than {MEMORY_BYTES >> 20} MiB, or more than {MAX_CHARS} characters"}
    except ERRORS as error:
        return {"error": f"{error}"[:500]}


def main() -> None:
    """Answers jobs until none comes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    while select.select([sys.stdin], [], [], IDLE_S)[0] and (line := sys.stdin.readline()):
        sys.stdout.write(json.dumps(answer(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
