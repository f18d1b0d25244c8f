"""The model that the host benchmark serves: Qwen3-Reranker's own layout and vocabulary, and next to no weights.

The vocabulary is read from the package ``dashscope`` (Alibaba's client, which carries it), fetched with pip once into
the working folder. Without it the small tokenizer of the tests is used, and the result says so.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

from tests.support.checkpoints import make_qwen3
from tests.support.tokenizer_files import QWEN_ADDED, qwen_tokenizer_json

CARRIER = "dashscope==2.0.2"
VOCABULARY = "dashscope/resources/qwen.tiktoken"


def make(folder: Path) -> tuple[Path, str]:
    """The checkpoint's folder, made if it is not there, and which vocabulary it has."""
    target, note = folder / "model", folder / "vocabulary.txt"
    if not (target / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = fetch_vocabulary(folder)
        tokenizer = qwen_tokenizer_json() if vocabulary is None else published_tokenizer(vocabulary)
        note.write_text("the tests' small one" if vocabulary is None else f"Qwen's, from {CARRIER}")
        make_qwen3(target, hidden=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate=16,
                   tokenizer_json=tokenizer, converted=True)  # fmt: skip
    return target, note.read_text()


def fetch_vocabulary(folder: Path) -> bytes | None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), CARRIER]
    if subprocess.run(command, check=False).returncode:
        return None
    (wheel,) = folder.glob("dashscope-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(VOCABULARY)


def published_tokenizer(vocabulary: bytes) -> str:
    """tokenizer.json with Qwen's ranks as vocabulary and merges, in the pipeline of the tests' tokenizer."""
    ranks = {base64.b64decode(word): int(rank) for word, rank in map(bytes.split, vocabulary.splitlines())}
    spelled = _byte_chars()

    def spell(word: bytes) -> str:
        return "".join(spelled[byte] for byte in word)

    merges = [tuple(map(spell, _parts(word, ranks))) for word in ranks if len(word) > 1]
    stored = json.loads(qwen_tokenizer_json())
    stored["model"]["vocab"] = {spell(word): rank for word, rank in ranks.items()}
    stored["model"]["merges"] = [list(pair) for pair in merges]
    for place, added in enumerate(stored["added_tokens"]):
        added["id"] = len(ranks) + place
    assert len(stored["added_tokens"]) == len(QWEN_ADDED)
    return json.dumps(stored, ensure_ascii=False)


def _parts(word: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that were merged into this one: byte pair encoding that stops before the word itself."""
    parts = [bytes([byte]) for byte in word]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        best = joined.index(min(joined))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts


def _byte_chars() -> dict[int, str]:
    """GPT-2's table: every byte as a printable character."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
