"""Whether this Python on this system can run the engine at all, said before anything is imported that could not be.

Kept to what every Python 3 understands, since it is what an old one gets to read.
"""

from __future__ import annotations

import sys
from typing import Optional, Tuple  # noqa: UP035  (the words of an old Python)

OLDEST: Tuple[int, int] = (3, 11)  # noqa: UP006


def why_unsupported(version: Tuple[int, int], system: str, largest_int: int) -> Optional[str]:  # noqa: UP006, UP045
    """One sentence, or None where the engine runs. ``system`` is ``sys.platform``, ``largest_int`` ``sys.maxsize``."""
    if version < OLDEST:
        return "engine needs Python {}.{} or later, and this is Python {}.{}: take a newer one.".format(
            *OLDEST, *version
        )
    if system == "win32":
        return "engine runs on Linux: on Windows, install it inside WSL 2, or run its container image."
    if largest_int < 2**32:
        return "engine needs a 64-bit Python, and this one has 32 bits: torch is not built for it."
    return None


def refuse_unsupported() -> None:
    """Prints the sentence, where there is one, and raises ``SystemExit``: nothing of the engine could be imported."""
    problem = why_unsupported((sys.version_info[0], sys.version_info[1]), sys.platform, sys.maxsize)
    if problem is not None:
        sys.stderr.write("engine: {}\n".format(problem))  # noqa: UP032
        raise SystemExit(2)
