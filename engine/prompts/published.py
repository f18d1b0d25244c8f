"""Prompt templates of published rerankers, as data, and where the template of a model is found.

They are code, not files, because a template engine drops a trailing newline and with it the score. A file is rendered
once, at start, with marks where a caller's text will stand; never for a request.
"""

from __future__ import annotations

import logging
from pathlib import Path

from engine.checkpoint.saved_template import SAVED, load_saved
from engine.errors import ConfigError
from engine.prompts.jinja import JinjaSource, checked, from_jinja
from engine.prompts.template import Piece, Slot, Template, split_slots

__all__ = ["JOINED", "QWEN3_RERANKER", "TEMPLATES", "Piece", "Slot", "Template", "load_template", "split_slots"]

logger = logging.getLogger(__name__)

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


def load_template(name: str | None, official: str | None = None) -> Template:
    """The template of ``ModelSpec.template``; a file's suffix is compared with the ``official`` template's."""
    if name is None:
        return JOINED
    if name.startswith(SAVED):
        return load_saved(Path(name.removeprefix(SAVED)))
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
        return from_jinja(JinjaSource(source, name))
    return Template(name, (checked(split_slots(source), name),))
