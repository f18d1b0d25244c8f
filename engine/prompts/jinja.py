"""Jinja templates, rendered at start with marks where texts will stand, in the sandbox of a process of their own; never
for a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.errors import ConfigError, ModelLoadError
from engine.prompts.renderer import RenderError, RenderLimitError, render
from engine.prompts.template import Piece, Placeholder, Template, split_placeholders

_MARKED = re.compile("\ue000(" + "|".join(Placeholder) + ")\ue001")
"""Private-use characters: no template contains them, and Jinja's filters for text leave them alone."""
_TEXTS = (Placeholder.QUERY, Placeholder.DOCUMENT)
_SUBSETS = tuple(frozenset(texts) for texts in ((), _TEXTS, _TEXTS[:1], _TEXTS[1:]))
_WHITE = " \n\t"
_LONG = 'Aé <b> & "1,5" {x}\n\n' * 300 + "z"
"""A text that no filter leaves alone: long, with both cases, marks of HTML, two newlines."""
_MARKS = {placeholder: f"\ue000{placeholder}\ue001" for placeholder in Placeholder}


@dataclass(frozen=True)
class JinjaSource:
    """A template's text and how it wants to be called."""

    text: str
    name: str
    """For messages, at the beginning of a sentence."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments."""
    keep_newline: bool = True
    """Jinja, and with it transformers, drops a newline at the end of the text."""
    system_instruction: bool = False
    """The instruction comes as a system message, not as a variable."""
    structured: bool = False
    """A message's content is a list of typed parts, not a string."""
    roles: tuple[str, str] = ("query", "document")
    """Of the messages that hold the two texts of a pair."""
    around: str = ""
    """Before and behind the mark in both texts."""

    def shows_pair(self) -> bool:
        """Whether both texts of a pair of these roles appear in it, each once; False where it cannot be rendered.

        Raises ``ModelLoadError`` for a template that takes more time or memory than a prompt may.
        """
        try:
            found = _MARKED.findall(self._rendered([], {"query": "", "document": ""}))
        except RenderError:
            return False
        return sorted(found) == [Placeholder.DOCUMENT, Placeholder.QUERY]

    def render(self, instruction: str | None) -> str:
        """Renders the template with marks for texts; ``instruction`` None: as for a call that gives none.

        Raises ``ConfigError`` for a template that cannot be rendered.
        """
        before, values = [], dict[str, Any]()
        if instruction is not None and self.system_instruction:
            before = [self._message("system", instruction)]
        elif instruction is not None:
            values = {"instruction": instruction, "instruct": instruction}
        try:
            return self._rendered(before, values)
        except RenderError as error:
            if instruction is None:
                return ""  # the template wants an instruction with every call
            raise ConfigError(f"{self.name} cannot be rendered: {error}.", param="score_template") from error

    def _rendered(self, before: list[dict[str, Any]], values: Mapping[str, Any]) -> str:
        query, document = (f"{self.around}{_MARKS[one]}{self.around}" for one in _TEXTS)
        pair = [self._message(role, text) for role, text in zip(self.roles, (query, document), strict=True)]
        given = {**self.values, "query": query, "document": document, **values, "messages": [*before, *pair]}
        try:
            return render(self.text, given, keep_newline=self.keep_newline)
        except RenderLimitError as error:
            raise ModelLoadError(
                f"{self.name} needs {error}. No prompt does: correct it, or pass another with --score-template."
            ) from error

    def _message(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self.structured else text}


def from_jinja(source: JinjaSource) -> Template:
    """It is rendered with and without an instruction. Mostly the difference is a default instead of it; else the two
    are two templates."""
    name = source.name
    text, without = source.render(_MARKS[Placeholder.INSTRUCTION]), source.render(None)
    pieces = checked(split_placeholders(text, _MARKED), name)
    strips = _stripped_texts(source, text)
    default = _default_instruction(text, without, name)
    if default is not None:
        return Template(name, (pieces,), default, strips=strips)
    plain = checked(split_placeholders(without, _MARKED), name)
    other = Template(f"{name}, with instruction", (pieces,), strips=strips)
    return Template(name, (plain,), with_instruction=other, strips=strips)


def _stripped_texts(source: JinjaSource, text: str) -> frozenset[Placeholder]:
    """The texts whose white space at both ends the template drops; ``text``: as rendered with plain marks.

    Raises ``ConfigError`` for a template that does something else to them (cuts them, changes their case), since a
    prompt is rendered once and a caller's text is put in as it is.
    """
    instruction = _MARKS[Placeholder.INSTRUCTION]
    padded = replace(source, around=_WHITE).render(instruction)
    found = [strips for strips in _SUBSETS if _padded(text, _WHITE, strips) == padded]
    if found and replace(source, around=_LONG).render(instruction) == _padded(text, _LONG, frozenset()):
        return found[0]
    raise ConfigError(
        f"{source.name} does more to a text than to drop the white space at both ends: it cuts it, or changes its "
        "characters. That is not executed here; a template that shows query and document as they are is.",
        param="score_template",
    )


def _padded(text: str, around: str, but_for: frozenset[Placeholder]) -> str:
    """``text`` with ``around`` on both sides of its marks, without those in ``but_for``."""
    for placeholder in _TEXTS:
        if placeholder not in but_for:
            text = text.replace(_MARKS[placeholder], f"{around}{_MARKS[placeholder]}{around}")
    return text


def checked(pieces: tuple[Piece, ...], name: str) -> tuple[Piece, ...]:
    """The rendered template. Raises ``ConfigError`` where it does not show query and document exactly once."""
    for placeholder in (Placeholder.QUERY, Placeholder.DOCUMENT):
        count = pieces.count(placeholder)
        if count != 1:
            raise ConfigError(
                f"{name} must show the {placeholder} exactly once, and shows it {count} times.", param="score_template"
            )
    return pieces


def _default_instruction(with_mark: str, without: str, name: str) -> str | None:
    """What the template itself puts where the instruction goes; None if more than that changes without one."""
    head, found, tail = with_mark.partition(_MARKS[Placeholder.INSTRUCTION])
    if not found or not without:
        return ""
    if _MARKS[Placeholder.INSTRUCTION] in tail:
        raise ConfigError(f"{name} shows the instruction more than once.", param="score_template")
    if not (without.startswith(head) and without.endswith(tail) and len(without) >= len(head) + len(tail)):
        return None
    return without[len(head) : len(without) - len(tail)]
