"""Where the prompt template of a model is found: among the published ones, beside its weights, or in a file.

A file is rendered once, at start, with marks where a caller's text will stand; never for a request.
"""

from __future__ import annotations

import logging
from pathlib import Path

from engine.checkpoint.saved_template import SAVED, load_saved
from engine.errors import ConfigError
from engine.prompts.jinja import JinjaSource, checked, from_jinja
from engine.prompts.published import JOINED, TEMPLATES
from engine.prompts.template import Template, split_placeholders

logger = logging.getLogger(__name__)


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
    return Template(name, (checked(split_placeholders(source), name),))
