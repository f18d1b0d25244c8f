"""What is scored: calls as token ids, and calls as texts cut from the documentation of Python's own library."""

from __future__ import annotations

import ast
import random
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

CONSTANT_PREFIX, QUERY, DOCUMENT, SPREAD = 58, 14, 80, 0.3
"""Tokens of template, query and document (mean, and how much it varies)."""
WORDS = 60
MODULES = ("argparse", "asyncio", "collections", "concurrent", "email", "http", "importlib", "logging", "unittest")


@dataclass(frozen=True)
class Calls:
    """One kind of load: how many calls are there at once, and how many documents each has."""

    name: str
    num_calls: int
    documents: int


SMALL = Calls("calls of 1", 512, 1)
LARGE = Calls("calls of 100", 12, 100)
SINGLE = Calls("one call of 1 at a time", 1, 1)


def token_calls(kind: Calls, vocab_size: int = 150_000) -> tuple[np.ndarray, list[list[np.ndarray]]]:
    """The constant beginning, and each call's whole prompts."""
    rng = np.random.default_rng(0)
    low, high = round(DOCUMENT * (1 - SPREAD)), round(DOCUMENT * (1 + SPREAD))

    def tokens(count: int) -> np.ndarray:
        return rng.integers(4, vocab_size, count, dtype=np.int32)

    constant_prefix, calls = tokens(CONSTANT_PREFIX), []
    for _ in range(kind.num_calls):
        head = np.concatenate([constant_prefix, tokens(QUERY)])
        calls.append([np.concatenate([head, tokens(int(rng.integers(low, high + 1)))]) for _ in range(kind.documents)])
    return constant_prefix, calls


@dataclass(frozen=True)
class TextCall:
    query: str
    documents: list[str]


def text_calls(num_calls: int, documents: int, seed: int = 0) -> list[TextCall]:
    """Every document is another run of ``WORDS`` words; queries are runs of eight."""
    rng, words = random.Random(seed), library_words()

    def run(length: int) -> str:
        start = rng.randrange(len(words) - length)
        return " ".join(words[start : start + length])

    return [TextCall(run(8), [run(WORDS) for _ in range(documents)]) for _ in range(num_calls)]


@lru_cache
def library_words() -> list[str]:
    """Words of the docstrings of Python's library, in order: English prose with some code, on any machine."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted([*folder.glob("*.py"), *(file for name in MODULES for file in (folder / name).rglob("*.py"))])
    words: list[str] = []
    for file in files:
        try:
            tree = ast.parse(file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                words += (ast.get_docstring(node) or "").split()
    return words
