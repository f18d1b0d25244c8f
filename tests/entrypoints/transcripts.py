"""What quick commands print, in a pipe and in a terminal of 80 columns: ``python -m tests.entrypoints.transcripts``
writes ``transcripts/pipe.txt`` and ``terminal.txt`` anew, for review like code. ``test_transcripts.py`` compares.

One process runs all the commands of one kind, so that they cost a second together. Escape sequences of the terminal
are written as ``\\e[..m``; what differs from machine to machine has a name in its place.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from engine.version import __version__

FOLDER = Path(__file__).with_name("transcripts")
COMMANDS = (
    "--version",
    "--help",
    "bench",
    "bench sweep --help",
    "completion --help",
    "clients --help",
    "clients cohere-v2 --base-url http://[::1]:8000",
    "clients nobody",
    "srve",
    "serve --prot 3",
    "serve --port",
    "serve m n",
    "serve ./nowhere",
    "serve m --port seven",
    "serve m --host 0.0.0.0",
    "serve --port TAKEN",
    "rerank",
    "rerank query no.txt",
    "rerank query --json --tsv",
    "score",
    "check",
    "plan ./nowhere",
    "convert",
    "eval --data no",
    "bench compare",
    "bench serve --num-prompts many",
    "bench serve --port FREE --num-prompts 1",
    "run-batch -i no.jsonl -o out.jsonl",
    "completion fisch",
)
WIDTH = 80
_PROGRAM = """
import socket, sys
from engine.entrypoints.cli import run
taken, free = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
ports = {"TAKEN": str(taken.getsockname()[1]), "FREE": str(free.getsockname()[1])}
free.close()
for line in sys.argv[1:]:
    print(f"$ engine {line}", flush=True)
    code = run([ports.get(word, word) for word in line.split()])
    sys.stdout.flush()
    print(f"[exit {code}]", flush=True)
"""


def _environment() -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("ENGINE_", "COLUMNS", "NO_COLOR"))
    }
    return kept | {"PYTHONSAFEPATH": "1", "TERM": "xterm-256color", "SHELL": "/bin/bash"}


def piped(folder: Path) -> str:
    """All commands with both streams in one pipe."""
    words = [sys.executable, "-P", "-c", _PROGRAM, *COMMANDS]
    done = subprocess.run(
        words, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    return settled(done.stdout)


def in_terminal(folder: Path) -> str:
    """All commands in a terminal, with the colours that they use there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    words = [sys.executable, "-P", "-c", _PROGRAM, *COMMANDS]
    child = subprocess.Popen(words, cwd=folder, env=_environment(), stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    printed = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        printed += part
    child.wait(timeout=120)
    os.close(ours)
    return settled(printed.decode().replace("\r\n", "\n"))


def settled(text: str) -> str:
    """Without what differs from machine to machine."""
    text = text.replace("\x1b", "\\e").replace(__version__, "VERSION")
    text = re.sub(r"(127\.0\.0\.1:)\d{4,5}", r"\1PORT", text)
    text = re.sub(r"by process \d+ \([^)]*\)", "by process PID", text)
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, printed in (("pipe", piped), ("terminal", in_terminal)):
        (FOLDER / f"{name}.txt").write_text(printed(FOLDER), encoding="utf-8")


if __name__ == "__main__":
    main()
