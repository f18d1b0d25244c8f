"""Bounds on a ``tokenizer.json`` before it is used: sizes, how far normalisers may lengthen a text, costly patterns.

What is read here is a small part of the file; its vocabulary is skipped. Patterns of published tokenizers are known by
their text. Any other is tried first in a process of its own, within limits on time and memory
(``tokenizer_trial.py``), since no rule tells every costly pattern from a harmless one.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import ModelLoadError

MAX_FILE_BYTES = 2**27
MAX_ADDED_TOKENS = 2**17
MAX_SETTINGS_BYTES = 2**22
"""Of everything but vocabulary and added tokens."""
MAX_COMPONENTS = 64
MAX_GROWTH = 64.0
"""How many times as long all replacements together may make a text."""
MAX_TEXT = 1024
"""Letters of a replacement, a prefix or a pattern."""
MAX_WORD_CHARS = 1000
"""``max_input_chars_per_word`` of WordPiece, whose cost is its square."""
TRIAL_TIMEOUT_S = 60.0
TRIAL = "engine.checkpoint.tokenizer_trial"

_KNOWN_PATTERNS = {
    " {2,}",
    r"\s+",
    r"\p{N}{1,3}",
    r"\p{N}",
    "[\r\n]",
    r"\s?\p{L}+",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Patterns of published tokenizers, none of which looks at a character more than a few times."""


class _Parts(msgspec.Struct):
    """What is looked at; the rest of the file is skipped."""

    normalizer: msgspec.Raw = msgspec.Raw(b"null")
    pre_tokenizer: msgspec.Raw = msgspec.Raw(b"null")
    post_processor: msgspec.Raw = msgspec.Raw(b"null")
    decoder: msgspec.Raw = msgspec.Raw(b"null")
    added_tokens: msgspec.Raw = msgspec.Raw(b"[]")
    model: msgspec.Raw = msgspec.Raw(b"{}")


MAX_TYPE = 2**16
_TYPE = re.compile(rb'"type_id"\s*:\s*(\d{1,4000})')


class _Model(msgspec.Struct):
    max_input_chars_per_word: Any = 0
    continuing_subword_prefix: Any = ""
    end_of_word_suffix: Any = ""


def check_tokenizer_file(path: Path) -> None:
    """Raises ``ModelLoadError`` for a file that would cost more time or memory than any tokenizer does."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise _wrong(path, f"it has {size:,} bytes, and at most {MAX_FILE_BYTES:,} are read")
    try:
        parts = msgspec.json.decode(path.read_bytes(), type=_Parts)
        added = len(msgspec.json.decode(parts.added_tokens or b"[]", type=list[msgspec.Raw]))
        settings = [parts.normalizer, parts.pre_tokenizer, parts.post_processor, parts.decoder]
        held = sum(len(memoryview(part)) for part in settings)
        if held > MAX_SETTINGS_BYTES:
            raise _wrong(path, f"its settings have {held:,} bytes, and at most {MAX_SETTINGS_BYTES:,} are read")
        if any(int(found) > MAX_TYPE for found in _TYPE.findall(bytes(parts.post_processor))):
            raise _wrong(path, f"it has a token type (type_id) beyond {MAX_TYPE}")
        components = [one for part in settings[:2] for one in _components(msgspec.json.decode(part))]
        model = msgspec.json.decode(parts.model, type=_Model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return  # the library says what is wrong with it
    if added > MAX_ADDED_TOKENS:
        raise _wrong(path, f"it adds {added:,} tokens, and at most {MAX_ADDED_TOKENS:,} are possible")
    if len(components) > MAX_COMPONENTS:
        raise _wrong(
            path, f"it has {len(components)} normalisers and splits, and at most {MAX_COMPONENTS} are possible"
        )
    _check_model(path, model)
    growth, patterns = 1.0, []
    for component in components:
        growth *= _growth(path, component)
        if growth > MAX_GROWTH:
            raise _wrong(path, f"its normalisers make a text more than {MAX_GROWTH:.0f} times as long")
        pattern = component.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            patterns.append(pattern["Regex"])
    for regex in patterns:
        _check_pattern(path, regex)
    if any(regex not in _KNOWN_PATTERNS for regex in patterns):
        _try(path)


def _components(value: Any) -> Iterator[dict[str, Any]]:
    """The parts of a normaliser or a pre-tokenizer, those inside sequences too."""
    if isinstance(value, dict):
        inner = [part for name in ("normalizers", "pretokenizers") for part in value.get(name) or ()]
        if not inner:
            yield value
        for part in inner:
            yield from _components(part)


def _growth(path: Path, component: dict[str, Any]) -> float:
    """How many times as long a text may become by this component."""
    for name in ("content", "prepend", "replacement"):
        text = component.get(name)
        if isinstance(text, str) and len(text) > MAX_TEXT:
            raise _wrong(path, f"a normaliser puts in a text of {len(text):,} characters")
    if component.get("type") != "Replace" or not isinstance(component.get("content"), str):
        return 1.0
    pattern, content = component.get("pattern") or {}, component["content"]
    literal = pattern.get("String") if isinstance(pattern, dict) else None
    if literal:
        return max(1.0, len(content) / len(literal))
    return max(1.0, float(len(content)) if literal is None else len(content) + 1.0)


def _check_model(path: Path, model: _Model) -> None:
    longest = model.max_input_chars_per_word
    if isinstance(longest, int) and longest > MAX_WORD_CHARS:
        raise _wrong(path, f"max_input_chars_per_word is {longest}, and at most {MAX_WORD_CHARS} are possible")
    for text in (model.continuing_subword_prefix, model.end_of_word_suffix):
        if isinstance(text, str) and len(text) > MAX_TEXT:
            raise _wrong(path, f"a prefix or suffix of its model has {len(text):,} characters")


def _check_pattern(path: Path, regex: str) -> None:
    """Repeats of repeats take exponential time, and huge counts exponential memory."""
    shown = regex if len(regex) <= 60 else f"{regex[:57]}..."
    if len(regex) > MAX_TEXT * 4:
        raise _wrong(path, f"a pattern has {len(regex):,} characters")
    if any(int(count) > 1000 for count in re.findall(r"\{(?:\d*,)?(\d{1,9})\d*\}", regex)):
        raise _wrong(path, f"the pattern {shown!r} counts further than 1000")
    if _repeats_repeats(regex):
        raise _wrong(path, f"the pattern {shown!r} repeats what repeats itself, which may take exponential time")


def _repeats_repeats(regex: str) -> bool:
    """Whether an unbounded repeat stands inside a group that is itself repeated without bound."""
    plain = re.sub(r"\\.", "x", regex, flags=re.DOTALL)
    plain = re.sub(r"\[\^?\]?[^\]]*\]", "x", plain)
    inside = [False]
    i = 0
    while i < len(plain):
        character = plain[i]
        if character == "(":
            inside.append(False)
        elif character == ")" and len(inside) > 1:
            repeats = inside.pop()
            if repeats and _unbounded(plain, i + 1):
                return True
            inside[-1] = inside[-1] or repeats
        elif _unbounded(plain, i):
            inside[-1] = True
        i += 1
    return False


def _unbounded(plain: str, at: int) -> bool:
    """Whether ``*``, ``+`` or ``{n,}`` stands there."""
    return plain[at : at + 1] in ("*", "+") or re.match(r"\{\d*,\}", plain[at : at + 24]) is not None


def _try(path: Path) -> None:
    """Loads and uses the file elsewhere. Raises ``ModelLoadError`` where that does not end well."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", TRIAL, str(path)],
            capture_output=True,
            text=True,
            timeout=TRIAL_TIMEOUT_S,
            check=False,
            env={**os.environ, "PYTHONSAFEPATH": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
    except subprocess.TimeoutExpired:
        raise _wrong(path, "tokenising a few thousand characters with it does not end") from None
    if done.returncode in (0, 3):  # 3: the library cannot read it, and says why when asked again
        return
    reason = (done.stderr.strip().splitlines() or [""])[-1][:200] if done.returncode == 1 else ""
    raise _wrong(
        path, reason or "tokenising a few thousand characters with it takes more time or memory than any tokenizer does"
    )


def _wrong(path: Path, reason: str) -> ModelLoadError:
    return ModelLoadError(f"{path} is not used: {reason}.")
