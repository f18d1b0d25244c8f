"""Which text goes around a pair: a built-in prompt, a saved one, a file, or the tokenizer's own pair form."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from engine.checkpoint.authority import Authority, Statement, strongest
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.metadata import without_modules
from engine.checkpoint.saved_template import SAVED, has_role_template, same_as_built_in
from engine.errors import ConfigError
from engine.model_spec import HeadSpec
from engine.prompts.published import QWEN3_RERANKER, TEMPLATES, built_in_name

logger = logging.getLogger(__name__)

NO_TEMPLATE = ("auto", "none")
_QWEN3 = ("qwen3", "qwen3_vl", "qwen3_moe")
"""Types whose vocabulary has the marks of Qwen3-Reranker's prompt."""


@dataclass(frozen=True)
class Prompt:
    """``ModelSpec``'s fields about the prompt, and who said so."""

    template: str | None
    use_sep_token: bool
    pair_prompt: str | None
    origin: str
    is_message: bool = False
    """It is rendered and cut as sentence-transformers renders and cuts messages."""


def asked_built_in(score_template: str) -> str | None:
    """The built-in prompt that ``--score-template`` asks for; None for auto, none and files that exist."""
    if score_template in NO_TEMPLATE or Path(score_template).expanduser().is_file():
        return None
    return built_in_name(score_template)


def resolve_prompt(checkpoint: Checkpoint, score_template: str, head: HeadSpec) -> Prompt:
    """The prompt by the strongest statement; raises ``ConfigError`` for a flag that names none that can be used."""
    asked = _from_flag(checkpoint, score_template)
    if not checkpoint.family.decoder:
        if checkpoint.chain is not None and not checkpoint.chain.is_text:
            raise ConfigError(
                f"{checkpoint.label} is an encoder and reads messages of a chat template, which is not supported.",
                param="model",
            )
        return Prompt(None, True, _pair_prompt(checkpoint), "the tokenizer's pair form")
    stated = strongest(asked, _from_files(checkpoint), _from_override(checkpoint), _from_table(checkpoint))
    if stated is None:
        stated = _usual(checkpoint, head)
    is_pair = _use_sep_token(checkpoint, head, stated)
    takes_prompt = is_pair and stated.value is None
    is_message = checkpoint.chain is not None and not checkpoint.chain.is_text and stated.authority is Authority.FILES
    pair_prompt = _pair_prompt(checkpoint) if takes_prompt else None
    return Prompt(stated.value, is_pair, pair_prompt, stated.origin, is_message)


def _from_flag(checkpoint: Checkpoint, score_template: str) -> Statement[str | None] | None:
    if score_template == "auto":
        return None
    origin = "--score-template"
    if score_template == "none":
        return Statement(None, Authority.FLAG, f"{origin} none")
    if not checkpoint.family.decoder:
        raise ConfigError(
            f"{checkpoint.architecture} encodes pairs with its tokenizer and takes no template.", param="score_template"
        )
    path = Path(score_template).expanduser()
    if path.is_file():
        return Statement(f"file:{path.resolve()}", Authority.FLAG, origin)
    name = asked_built_in(score_template)
    if name is None:
        raise ConfigError(
            f"--score-template is auto, none, the path of a file or the name of a built-in prompt "
            f"({', '.join(TEMPLATES)}), and there is no file {score_template}.",
            param="score_template",
        )
    if name != score_template:
        logger.info(
            "--score-template %s: there is no such file here; the built-in prompt %s is used.", score_template, name
        )
    return Statement(name, Authority.FLAG, origin)


def _from_files(checkpoint: Checkpoint) -> Statement[str | None] | None:
    """The chain says whether pairs are texts or messages; without one, a chat template for their roles says it."""
    chain, folder = checkpoint.chain, checkpoint.files.folder
    if chain is not None and chain.is_text:
        return Statement(None, Authority.FILES, "modality_config, texts")
    if chain is None and not has_role_template(checkpoint.files):
        return None
    if chain is None and (default := checkpoint.default_prompt()):
        raise without_modules(checkpoint.label, f"the prompt {default!r}", "name the prompt with --score-template")
    origin = "the saved chat template"
    if same_as_built_in(checkpoint.files) == QWEN3_RERANKER.name:  # its parts tokenise alike together and apart
        return Statement(QWEN3_RERANKER.name, Authority.FILES, f"{origin}, which is that one")
    return Statement(f"{SAVED}{folder.resolve()}", Authority.FILES, origin)


def _from_override(checkpoint: Checkpoint) -> Statement[str | None] | None:
    """``is_original_qwen3_reranker`` says which published model it is, and so which prompt it was trained with."""
    if not checkpoint.config.get("is_original_qwen3_reranker"):
        return None
    name = checkpoint.family.template or QWEN3_RERANKER.name  # one flag for both, in vLLM too
    if checkpoint.config["model_type"] not in _QWEN3:
        raise ConfigError(
            f"is_original_qwen3_reranker says that {checkpoint.label} is a Qwen3-Reranker, and its network is a "
            f"{checkpoint.family.body}. Leave the key out; for its prompt alone there is --score-template {name}.",
            param="hf_overrides.is_original_qwen3_reranker",
        )
    return Statement(name, Authority.PUBLISHED, "is_original_qwen3_reranker")


def _from_table(checkpoint: Checkpoint) -> Statement[str | None] | None:
    identity = checkpoint.identity
    if identity is None or identity.model.template is None:
        return None
    if identity.is_base:
        logger.warning(
            "%s: by %s it was made from %s, so that model's prompt and range are assumed to be its own. If it was "
            "trained with another prompt, give it with --score-template; --ignore-config-key base_model ignores it.",
            checkpoint.label,
            identity.origin,
            identity.id,
        )
    return Statement(identity.model.template, Authority.PUBLISHED, f"what is published of {identity.id}")


def _usual(checkpoint: Checkpoint, head: HeadSpec) -> Statement[str | None]:
    """A classifier reads pairs as its tokenizer joins them, with a warning; a token that answers has a prompt."""
    if (template := checkpoint.family.template) is not None and not head.token_ids:
        return Statement(template, Authority.USUAL, f"all published models of the class {checkpoint.architecture}")
    if head.token_ids and checkpoint.config.get("use_sep_token") is None:
        answer = " or ".join(map(repr, head.tokens))
        raise ConfigError(
            f"{checkpoint.label} answers with the token {answer}, and nothing says in which prompt it was trained to: "
            "no flag, no saved chat template, and neither its name nor README.md is that of a published reranker. "
            f"Say it. (1) Trained with a published prompt: --score-template NAME, one of {', '.join(TEMPLATES)}; for a "
            'fine-tuned Qwen3-Reranker, "is_original_qwen3_reranker": true in --hf-overrides says the same. (2) With a '
            "prompt of its own: --score-template FILE. (3) Without one: --score-template none, and query and document "
            "are joined as they are.",
            param="score_template",
        )
    logger.warning(
        "%s: no template is known for this model, so query and document are joined as they are. "
        "If it was trained with one, give it with --score-template.",
        checkpoint.label,
    )
    return Statement(None, Authority.USUAL, "no template is known")


def _use_sep_token(checkpoint: Checkpoint, head: HeadSpec, stated: Statement[str | None]) -> bool:
    """Whether pairs without a template are two texts for the tokenizer, or one."""
    key = checkpoint.config.get("use_sep_token")
    if key is not None:
        return bool(key)
    if checkpoint.chain is not None and stated.authority is Authority.FILES:
        return True
    return head.kind == "classifier"


def _pair_prompt(checkpoint: Checkpoint) -> str | None:
    """The prompt that sentence-transformers puts before the first text of a pair."""
    chain = checkpoint.chain
    if chain is None or not chain.is_cross_encoder or not any(checkpoint.prompts().values()):
        return None
    return checkpoint.default_prompt()
