"""Prompt templates: the text around a pair, as data, and templates read from a file.

A template is a list of parts. A part without a slot is **fixed**: it is tokenised once, and only there special tokens
count. A part with slots is **text**: what a caller wrote and the words between it, tokenised together with special
tokens switched off. The built-in ones are code, not files, because a template engine drops a trailing newline and with
it the score. A file is rendered once, at start, with marks where a caller's text will stand; never for a request.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

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

    @classmethod
    def of(cls, name: str, *parts: str, default_instruction: str = "") -> Template:
        return cls(name, tuple(split_slots(part) for part in parts), default_instruction)

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

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        QWEN3_RERANKER,
        Template.of(
            "mxbai-rerank-v2",
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n",
            "query: {query}\ndocument: {document}\nYou are a search relevance expert who evaluates how well documents "
            "match search queries. For each query-document pair, carefully analyze the semantic relationship between "
            "them, then provide your binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        Template.of(
            "bge-reranker-v2-gemma",
            "<bos>",
            "A: {query}\nB: {document}\nGiven a query A and a passage B, determine whether the passage contains an "
            "answer to the query by providing a prediction of either 'Yes' or 'No'.",
        ),
        Template.of(
            "zerank-2",
            "<|im_start|>system\n",
            "{query}",
            "<|im_end|>\n<|im_start|>user\n",
            "{document}",
            "<|im_end|>\n<|im_start|>assistant\n",
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
    try:
        source = path.read_bytes().decode("utf-8")  # read_text would turn \r\n into \n
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The score template {path} cannot be read: {error}.", param="score_template") from error
    instruction = ""
    if "{{" in source or "{%" in source:
        text = _render(source, path, _MARKS[Slot.INSTRUCTION])
        instruction = _default_instruction(text, _render(source, path, None), path)
        pieces = split_slots(text, _MARKED)
    else:
        pieces = split_slots(source)
    for slot in (Slot.QUERY, Slot.DOCUMENT):
        count = pieces.count(slot)
        if count != 1:
            raise ConfigError(
                f"The score template {path} must show the {slot} exactly once, and shows it {count} times.",
                param="score_template",
            )
    return Template(f"file:{path}", (pieces,), instruction)


def _render(source: str, path: Path, instruction: str | None) -> str:
    """The template with marks; ``instruction`` None: as for a call that gives none."""
    environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _raise
    query, document = _MARKS[Slot.QUERY], _MARKS[Slot.DOCUMENT]
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    values = {"messages": messages, "query": query, "document": document, "add_generation_prompt": True}
    if instruction is not None:
        values |= {"instruction": instruction, "instruct": instruction}
    try:
        return environment.from_string(source).render(**values)
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        if instruction is None:
            return ""  # the template wants an instruction with every call
        raise ConfigError(f"The score template {path} cannot be rendered: {error}.", param="score_template") from error


def _raise(message: str) -> None:
    """``raise_exception`` of templates written for transformers."""
    raise TemplateError(message)


def _default_instruction(with_mark: str, without: str, path: Path) -> str:
    """What the template itself puts where the instruction goes."""
    head, found, tail = with_mark.partition(_MARKS[Slot.INSTRUCTION])
    if not found or not without:
        return ""
    if _MARKS[Slot.INSTRUCTION] in tail:
        raise ConfigError(f"The score template {path} shows the instruction more than once.", param="score_template")
    if not (without.startswith(head) and without.endswith(tail) and len(without) >= len(head) + len(tail)):
        logger.warning("The score template %s changes more than the instruction when none is given.", path)
        return ""
    return without[len(head) : len(without) - len(tail)]
