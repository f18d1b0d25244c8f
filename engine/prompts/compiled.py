"""A template and a tokenizer, compiled: which ids are constant, and which strings must be tokenised for a pair.

The ids of a prompt are those of each part tokenised at once. Where the tokenizer provably splits the text before every
document (``_SAFE_SPLITS``), the words before it are tokenised once for all documents of a query; everywhere else they
are tokenised together with each document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from engine.prompts.template import Piece, Placeholder, Template

_SAFE_SPLITS = frozenset(
    {
        # Qwen2, Qwen2.5, Qwen3. A token of this pattern that holds a character other than white space holds no space
        # behind it, and the pattern never looks back: "X" + " document" are split as "X document" is.
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    }
)
EMPTY = np.zeros(0, np.int32)


@dataclass(frozen=True)
class TextPart:
    """Text with placeholders, tokenised in one piece."""

    pieces: tuple[Piece, ...]

    @property
    def has_document(self) -> bool:
        return Placeholder.DOCUMENT in self.pieces

    @property
    def only_document(self) -> bool:
        """Every token of this part belongs to the document (but for the space before it)."""
        return self.pieces[-1] == Placeholder.DOCUMENT and all(
            piece in (" ", Placeholder.DOCUMENT) for piece in self.pieces
        )

    def fill(self, instruction: str, query: str, document: str) -> str:
        values = {Placeholder.INSTRUCTION: instruction, Placeholder.QUERY: query, Placeholder.DOCUMENT: document}
        return "".join(values[piece] if isinstance(piece, Placeholder) else piece for piece in self.pieces)

    def span(self, placeholder: Placeholder, instruction: str, query: str, document: str) -> tuple[int, int]:
        """The begin and end of the placeholder's text in the filled text; (0, 0) where it is not in here."""
        if placeholder not in self.pieces:
            return 0, 0
        position = self.pieces.index(placeholder)
        start = len(TextPart(self.pieces[:position]).fill(instruction, query, document))
        return start, start + len({Placeholder.QUERY: query, Placeholder.DOCUMENT: document}[placeholder])


Part = np.ndarray | TextPart
"""Constant ids, or text."""


@dataclass(frozen=True)
class CompiledPrompt:
    """A template for one tokenizer."""

    template: Template
    parts: tuple[Part, ...]

    @property
    def takes_instruction(self) -> bool:
        return any(isinstance(part, TextPart) and Placeholder.INSTRUCTION in part.pieces for part in self.parts)

    @property
    def ends_with_document(self) -> bool:
        """Whether the query stands before the document."""
        texts = [piece for part in self.parts if isinstance(part, TextPart) for piece in part.pieces]
        return (
            Placeholder.QUERY in texts[: texts.index(Placeholder.DOCUMENT)] if Placeholder.DOCUMENT in texts else False
        )


def with_constants(prompt: CompiledPrompt, before: Mapping[Placeholder, np.ndarray]) -> CompiledPrompt:
    """The prompt with constant ids before texts of the caller, such as those of pictures. Like the template's special
    tokens, they divide the text into parts that are tokenised by themselves."""
    parts: list[Part] = []
    for part in prompt.parts:
        pieces: list[Piece] = []
        for piece in part.pieces if isinstance(part, TextPart) else ():
            if isinstance(piece, Placeholder) and len(before.get(piece, EMPTY)):
                parts += [TextPart(tuple(pieces))] if pieces else []
                parts.append(before[piece])
                pieces = []
            pieces.append(piece)
        if isinstance(part, TextPart):
            parts.append(TextPart(tuple(pieces)))
        else:
            parts.append(part)
    return CompiledPrompt(prompt.template, tuple(parts))


def compile_prompt(template: Template, tokenizer: Tokenizer) -> CompiledPrompt:
    """Tokenises the constant parts of a template. Call it before ``make_plain``: its own special tokens count."""
    parts: list[Part] = []
    added = _added_tokens(tokenizer)
    safe = splits_before_document(tokenizer)
    for pieces in (region for part in template.parts for region in _regions(part, added)):
        if any(isinstance(piece, Placeholder) for piece in pieces):
            parts += [TextPart(half) for half in (_halves(pieces) if safe else [pieces])]
            continue
        ids = tokenizer.encode("".join(pieces), add_special_tokens=False).ids
        constant = np.array(ids, np.int32)
        if parts and isinstance(parts[-1], np.ndarray):
            parts[-1] = np.concatenate([parts[-1], constant])
        else:
            parts.append(constant)
    if template.closing_ids:
        parts.append(np.array(template.closing_ids, np.int32))
    return CompiledPrompt(template, tuple(parts))


def with_special_tokens(prompt: CompiledPrompt, tokenizer: Tokenizer) -> CompiledPrompt:
    """The prompt between the special tokens that the tokenizer itself puts around a text (Llama and Gemma: BOS)."""
    encoding = tokenizer.encode("a")
    is_special = np.array(encoding.special_tokens_mask, bool)
    text = np.flatnonzero(~is_special)
    ids = np.array(encoding.ids, np.int32)
    before, behind = ids[: text[0]], ids[text[-1] + 1 :]
    parts = [part for part in (before, *prompt.parts, behind) if isinstance(part, TextPart) or len(part)]
    return CompiledPrompt(prompt.template, tuple(parts))


def _added_tokens(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    words = sorted((token.content for token in tokenizer.get_added_tokens_decoder().values()), key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, words)) + ")") if words else None


def _regions(pieces: tuple[Piece, ...], added: re.Pattern[str] | None) -> Iterator[tuple[Piece, ...]]:
    """Cuts at the template's special tokens, where the tokenizer cuts too; a part without placeholders stays whole."""
    if added is None or not any(isinstance(piece, Placeholder) for piece in pieces):
        yield pieces
        return
    region: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, Placeholder):
            region.append(piece)
            continue
        for i, text in enumerate(added.split(piece)):
            if i % 2:  # a special token
                if region:
                    yield tuple(region)
                yield (text,)
                region = []
            elif text:
                region.append(text)
    if region:
        yield tuple(region)


def splits_before_document(tokenizer: Tokenizer) -> bool:
    """Whether this tokenizer is one of those for which ``_halves`` changes no id."""
    normalizer, pre_tokenizer = settings_of(tokenizer.normalizer), settings_of(tokenizer.pre_tokenizer)
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    return (
        len(patterns) == 1
        and patterns[0] in _SAFE_SPLITS
        and steps[0].get("behavior") == "Isolated"
        and all(step["type"] == "Split" or not step.get("use_regex", True) for step in steps)
        and normalizer.get("type", "NFC") == "NFC"
    )


def settings_of(component: Any) -> dict[str, Any]:
    """A normaliser's or pre-tokeniser's part of tokenizer.json; empty where there is none."""
    return {} if component is None else dict(json.loads(component.__getstate__()))


def _halves(pieces: tuple[Piece, ...]) -> list[tuple[Piece, ...]]:
    """(..., "x: ", DOCUMENT, ...) -> (..., "x:") and (" ", DOCUMENT, ...): see ``_SAFE_SPLITS``."""
    position = pieces.index(Placeholder.DOCUMENT) if Placeholder.DOCUMENT in pieces else 0
    before = pieces[position - 1] if position else ""
    if isinstance(before, Placeholder) or len(before) < 2 or before[-1] != " " or before[-2].isspace():
        return [pieces]
    return [(*pieces[: position - 1], before[:-1]), (" ", *pieces[position:])]


def make_plain(tokenizer: Tokenizer, prompts: list[CompiledPrompt]) -> None:
    """Makes special tokens ordinary text wherever a text spells them.

    So are the template's own marks that the tokenizer does not call special (``<think>``): nobody but the template may
    write them.
    """
    used = {int(i) for prompt in prompts for part in prompt.parts if isinstance(part, np.ndarray) for i in part}
    marks = [
        AddedToken(token.content, special=True, normalized=False)
        for token_id, token in tokenizer.get_added_tokens_decoder().items()
        if token_id in used and not token.special
    ]
    if marks:
        tokenizer.add_special_tokens(marks)
    tokenizer.encode_special_tokens = True


class SpecialIdGuard:
    """Some vocabularies (Unigram) hold their special tokens as ordinary pieces too, and give them for such a text.

    Their ids are then spelled out, character by character.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        own = tokenizer.get_vocab(with_added_tokens=False)
        unknown = next((own[name] for name in ("<unk>", "[UNK]") if name in own), None)
        self._spelled: dict[int, list[int]] = {}
        for token_id, token in tokenizer.get_added_tokens_decoder().items():
            if token.special and own.get(token.content) == token_id != unknown:
                ids = [own.get(character, unknown) for character in token.content]
                self._spelled[token_id] = [i for i in ids if i is not None and i != token_id]
        self._special = np.array(sorted(self._spelled), np.int32)

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Positions of special ids."""
        return np.flatnonzero(np.isin(ids, self._special)) if len(self._special) else EMPTY

    def spell(self, token_id: int) -> list[int]:
        return self._spelled[token_id]
