"""The prompt that lies beside the weights: a chat template for the roles query and document.

Sentence-transformers says in ``sentence_bert_config.json`` that a model reads messages, and with which arguments its
template is called. Without that file, a chat template that shows messages of these two roles, and of no others, is one
as well; what it says is found out by rendering it, not by reading its words. An instruction is a system message, or a
variable where the template shows none; ``default_prompt_name`` names the usual one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.checkpoint.files import CheckpointFiles
from engine.errors import ConfigError, ModelLoadError
from engine.prompts.jinja import JinjaSource, from_jinja
from engine.prompts.published import TEMPLATES
from engine.prompts.template import Template

SAVED = "saved:"
"""Begins ``ModelSpec.template`` of such a model; the folder follows."""
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_OURS = ("chat_template", "restore_suffix", "padding", "truncation", "max_length", "return_tensors")
"""Arguments that never reach the template."""


def has_role_template(files: CheckpointFiles) -> bool:
    """Whether the chat template is one for pairs: it shows query and document, and says nothing of other roles."""
    text = _template_text(files, "default")
    if text is None:
        return False
    source = JinjaSource(
        text, f"The chat template of {files.label}", _special_tokens(files) | {"add_generation_prompt": False}, False
    )
    for structured in (False, True):
        pair = replace(source, structured=structured)
        if pair.shows_pair() and not replace(pair, roles=("first", "second")).shows_pair():
            return True
    return False


def same_as_built_in(files: CheckpointFiles) -> str | None:
    """The built-in template that the saved one is word for word; None where it is another, or none for pairs."""
    chain_says = "message" in _modalities(files)
    if not chain_says and not has_role_template(files):
        return None
    saved = load_saved(files.folder)
    return next((name for name, template in TEMPLATES.items() if saved.says_the_same(template)), None)


def load_saved(folder: Path) -> Template:
    """The template beside the weights; raises ``ModelLoadError`` or ``ConfigError`` where it is missing or wrong."""
    files = CheckpointFiles(folder, folder.name)
    settings = files.json("sentence_bert_config.json") or {}
    given = (settings.get("processing_kwargs") or {}).get("chat_template") or {}
    template_name = given.get("chat_template") or "default"
    text = _template_text(files, template_name)
    if text is None:
        raise ModelLoadError(
            f"sentence_bert_config.json of {folder} asks for the chat template {template_name!r}, which is neither in "
            "chat_template.jinja nor in tokenizer_config.json. Add it, or give one with --score-template."
        )
    values = _special_tokens(files) | {"add_generation_prompt": False}
    values |= {name: value for name, value in given.items() if name not in _OURS}
    source = JinjaSource(text, f"The chat template of {folder}", values, keep_newline=False, system_instruction=True)
    template = _first_that_works(source, (_modalities(files).get("message") or {}).get("format", "auto"))
    return replace(template, default_instruction=_default_prompt(files) or template.default_instruction)


def _modalities(files: CheckpointFiles) -> dict[str, Any]:
    found = (files.json("sentence_bert_config.json") or {}).get("modality_config")
    return found if isinstance(found, dict) else {}


def _template_text(files: CheckpointFiles, name: str) -> str | None:
    file = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{Path(name).name}.jinja"
    path = files.folder / file
    if path.is_file():
        return path.read_bytes().decode("utf-8")
    stored = files.tokenizer_config.get("chat_template")
    if isinstance(stored, list):
        stored = {item.get("name"): item.get("template") for item in stored if isinstance(item, dict)}.get(name)
    elif name != "default":
        stored = None
    return stored if isinstance(stored, str) else None


def _special_tokens(files: CheckpointFiles) -> dict[str, Any]:
    found = {}
    for name in _TOKENS:
        token = files.tokenizer_config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return found


def _first_that_works(source: JinjaSource, message_format: str) -> Template:
    """``auto``: plain strings, or typed parts where the template shows no texts otherwise."""
    if message_format in ("flat", "structured"):
        return _with_instruction(replace(source, structured=message_format == "structured"))
    try:
        return _with_instruction(source)
    except ConfigError:
        return _with_instruction(replace(source, structured=True))


def _with_instruction(source: JinjaSource) -> Template:
    as_variable = replace(source, system_instruction=False)
    try:
        template = from_jinja(source)
    except ConfigError:  # it counts messages, and a system message before them is one too many
        return from_jinja(as_variable)
    return template if template.takes_instruction else from_jinja(as_variable)


def _default_prompt(files: CheckpointFiles) -> str:
    prompts, name = files.cross_encoder.get("prompts"), files.cross_encoder.get("default_prompt_name")
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    return prompt if isinstance(prompt, str) else ""
