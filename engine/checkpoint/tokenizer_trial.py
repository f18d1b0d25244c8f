"""Tries a ``tokenizer.json`` in a process with limits: ``python -m engine.checkpoint.tokenizer_trial FILE``.

Exit code 0: it tokenises texts of hard kinds in good time. 3: the library cannot read it. Anything else, a signal
included: it must not be used.
"""

from __future__ import annotations

import resource
import sys
import time

CPU_S = 10
MEMORY_BYTES = 4 * 2**30
CHARS = 4096
MAX_S = 2.0
"""Computing for one text."""
MAX_TOKENS = 16
"""For each character of a text."""
PIECES = (
    "a",
    " ",
    "\n",
    "1",
    "-",
    "aA",
    "a ",
    "ab1",
    "é",
    "中",
    "e\u0301",
    "\u200b",
    "'",
    "a\n",
    "😀",
    "_=",
    "\u3000",
    "\0",
)


def main() -> int:
    """The exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(sys.argv[1])
    except Exception:  # the library has no narrower type
        return 3
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for piece in PIECES:
        for text in (piece * (CHARS // len(piece)), piece * (CHARS // len(piece)) + "!", "x" + piece * 64 + "y"):
            started = time.process_time()
            count = len(tokenizer.encode(text, add_special_tokens=False).ids)
            taken = time.process_time() - started
            if taken > MAX_S or count > MAX_TOKENS * len(text):
                print(f"{len(text)} times {piece!r} took {taken:.1f} s and made {count:,} tokens", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
