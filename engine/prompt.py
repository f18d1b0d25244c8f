"""Prompt templates: the text around a pair, as data, and templates read from a file.

A template is a list of parts. A part without a slot is **fixed**: it is tokenised once, and only there special tokens
count. A part with slots is **text**: what a caller wrote and the words between it, tokenised together with special
tokens switched off. The built-in ones are code, not files, because a template engine drops a trailing newline and with
it the score. A file is rendered once, at start, with marks where a caller's text will stand; never for a request.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import ConfigError

logger = logging.getLogger(__name__)


class Slot(StrEnum):
    """Where a caller's text stands."""

    INSTRUCTION = "instruction"
    QUERY = "query"
    DOCUMENT = "document"


Piece = str | Slot
"""Literal text, or a place for a caller's."""

_NAMED = re.compile(r"\{(" + "|".join(Slot) + r")\}")
_MARKED = re.compile("\ue000(" + "|".join(Slot) + ")\ue001")
"""Private-use characters: no template contains them, and Jinja's filters for text leave them alone."""


def split_slots(text: str, pattern: re.Pattern[str] = _NAMED) -> tuple[Piece, ...]:
    """``"a{query}b"`` -> ("a", Slot.QUERY, "b"), so that a query that holds ``{document}`` stays a query."""
    found = pattern.split(text)  # literal, slot, literal, ...
    return tuple(Slot(piece) if i % 2 else piece for i, piece in enumerate(found) if piece)


@dataclass(frozen=True)
class Template:
    """The text around a pair."""

    name: str
    parts: tuple[tuple[Piece, ...], ...]
    default_instruction: str = ""
    with_instruction: Template | None = None
    """Used instead for a call that gives an instruction; None: it has its place in ``parts``, or none at all."""

    @classmethod
    def of(
        cls, name: str, *parts: str, default_instruction: str = "", with_instruction: tuple[str, ...] | None = None
    ) -> Template:
        other = cls.of(f"{name}, with instruction", *with_instruction) if with_instruction else None
        return cls(name, tuple(split_slots(part) for part in parts), default_instruction, other)

    @property
    def suffix(self) -> str:
        """What follows the last slot."""
        tail: list[str] = []
        for piece in reversed([piece for part in self.parts for piece in part]):
            if isinstance(piece, Slot):
                break
            tail.append(str(piece))
        return "".join(reversed(tail))


QWEN3_RERANKER = Template.of(
    "qwen3-reranker",
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    default_instruction="Given a web search query, retrieve relevant passages that answer the query",
)

_MXBAI_BEFORE = (
    "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n"
)
_MXBAI_BEHIND = (
    "\n",
    "document: {document}",
    "\n",
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment "
    "(0 for not relevant, 1 for relevant).\nRelevance:",
    "<|im_end|>\n<|im_start|>assistant\n",
)
_ZERANK_BEHIND = "<|im_end|>\n<|im_start|>user\n{document}<|im_end|>\n<|im_start|>assistant\n"

# Where a part begins is where the published code begins a new call of the tokenizer.
TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        QWEN3_RERANKER,
        Template.of(
            "mxbai-rerank-v2",
            _MXBAI_BEFORE,
            "query: {query}",
            *_MXBAI_BEHIND,
            with_instruction=(_MXBAI_BEFORE, "instruction: {instruction}\nquery: {query}", *_MXBAI_BEHIND),
        ),
        Template.of(
            "bge-reranker-v2-gemma",
            "<bos>",
            "A: {query}",
            "\n",
            "B: {document}",
            "\n",
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
            "providing a prediction of either 'Yes' or 'No'.",
        ),
        Template.of(
            "zerank-2",
            "<|im_start|>system\n{query}" + _ZERANK_BEHIND,
            with_instruction=(
                "<|im_start|>system\n<query>{query}</query>\n<instruction>{instruction}</instruction>" + _ZERANK_BEHIND,
            ),
        ),
    )
}

JOINED = Template.of("joined", "{query}{document}")
"""No template: a decoder reads query and document as one text."""

_MARKS = {slot: f"\ue000{slot}\ue001" for slot in Slot}


def load_template(name: str | None, official: str | None = None) -> Template:
    """The template of ``ModelSpec.template``; a file's suffix is compared with the ``official`` template's."""
    if name is None:
        return JOINED
    if not name.startswith("file:"):
        return TEMPLATES[name]
    template = _from_file(Path(name.removeprefix("file:")))
    if official is not None and template.suffix != TEMPLATES[official].suffix:
        logger.warning(
            "The score template ends %r, but this model was trained with %r after the document: expect other scores.",
            template.suffix,
            TEMPLATES[official].suffix,
        )
    return template


def _from_file(path: Path) -> Template:
    """Jinja, or plain text with ``{query}``, ``{document}`` and perhaps ``{instruction}``."""
    try:
        source = path.read_bytes().decode("utf-8")  # read_text would turn \r\n into \n
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The score template {path} cannot be read: {error}.", param="score_template") from error
    name = f"The score template {path}"
    if "{{" in source or "{%" in source:
        return from_jinja(source, name)
    return Template(name, (_checked(split_slots(source), name),))


def from_jinja(source: str, name: str, values: Mapping[str, Any] | None = None) -> Template:
    """A chat template, rendered with marks where texts will stand; ``values`` are further arguments of it.

    It is rendered with and without an instruction. Mostly the difference is a default in its place; else the two are
    two templates.
    """
    text, without = (_render(source, name, mark, values or {}) for mark in (_MARKS[Slot.INSTRUCTION], None))
    pieces = _checked(split_slots(text, _MARKED), name)
    default = _default_instruction(text, without, name)
    if default is not None:
        return Template(name, (pieces,), default)
    plain = _checked(split_slots(without, _MARKED), name)
    return Template(name, (plain,), with_instruction=Template(f"{name}, with instruction", (pieces,)))


def _checked(pieces: tuple[Piece, ...], name: str) -> tuple[Piece, ...]:
    for slot in (Slot.QUERY, Slot.DOCUMENT):
        count = pieces.count(slot)
        if count != 1:
            raise ConfigError(
                f"{name} must show the {slot} exactly once, and shows it {count} times.", param="score_template"
            )
    return pieces


def _render(source: str, name: str, instruction: str | None, more: Mapping[str, Any]) -> str:
    """The template with marks; ``instruction`` None: as for a call that gives none."""
    environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    query, document = _MARKS[Slot.QUERY], _MARKS[Slot.DOCUMENT]
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    values: dict[str, Any] = {"add_generation_prompt": True, **more}
    values |= {"messages": messages, "query": query, "document": document}
    if instruction is not None:
        values |= {"instruction": instruction, "instruct": instruction}
    try:
        return environment.from_string(source).render(**values)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        if instruction is None:
            return ""  # the template wants an instruction with every call
        raise ConfigError(f"{name} cannot be rendered: {error}.", param="score_template") from error


def _raise(message: str) -> None:
    """``raise_exception`` of templates written for transformers."""
    raise TemplateError(message)


def _default_instruction(with_mark: str, without: str, name: str) -> str | None:
    """What the template itself puts where the instruction goes; None if more than that changes without one."""
    head, found, tail = with_mark.partition(_MARKS[Slot.INSTRUCTION])
    if not found or not without:
        return ""
    if _MARKS[Slot.INSTRUCTION] in tail:
        raise ConfigError(f"{name} shows the instruction more than once.", param="score_template")
    if not (without.startswith(head) and without.endswith(tail) and len(without) >= len(head) + len(tail)):
        return None
    return without[len(head) : len(without) - len(tail)]
