"""Who says which head a checkpoint has: a flag, its own files, its class, its prompt, or what is published of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.checkpoint.authority import Authority, Statement, strongest
from engine.checkpoint.checkpoint import Checkpoint
from engine.checkpoint.embedding import HEADLESS
from engine.checkpoint.metadata import METADATA
from engine.checkpoint.overrides import METHODS
from engine.checkpoint.published_models import Published, published_models
from engine.checkpoint.saved_template import same_as_built_in
from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import HeadKind

WHERE = "hf_overrides.classifier_from_token"
"""The setting that errors about the tokens of a head name."""


@dataclass(frozen=True)
class Tokens:
    """A head of the language model's rows: [false, true] or those that count, as texts or as ids."""

    kind: HeadKind
    tokens: tuple[str | int, ...]

    @property
    def names(self) -> str:
        """The tokens as errors write them."""
        return " and ".join(f"id {token}" if isinstance(token, int) else repr(token) for token in self.tokens)


Source = Tokens | Literal["classifier", "modules", "embedding"]
"""Where the weights of a head come from; "embedding": there is none."""


def stated_source(checkpoint: Checkpoint) -> Statement[Source] | None:
    """The strongest statement about the head; None where nothing says which it is.

    Raises ``ConfigError`` for settings that contradict themselves, ``ModelLoadError`` for files that do.
    """
    return strongest(
        _from_config(checkpoint, Authority.FLAG),
        _from_chain(checkpoint),
        _from_config(checkpoint, Authority.FILES),
        _from_architecture(checkpoint),
        _from_saved_prompt(checkpoint),
        _from_table(checkpoint),
        _from_asked_prompt(checkpoint),
    )


def _from_config(checkpoint: Checkpoint, authority: Authority) -> Statement[Source] | None:
    """vLLM's keys, from the flag or as its converter saves them."""
    is_flag = authority is Authority.FLAG
    origin, config = ("--hf-overrides", checkpoint.overrides) if is_flag else ("config.json", checkpoint.files.config)
    tokens, method = config.get("classifier_from_token"), config.get("method")
    if config.get("is_original_qwen3_reranker"):
        method = method or "from_2_way_softmax"
        if tokens is None:
            raise ConfigError(
                'is_original_qwen3_reranker needs its two tokens: add "classifier_from_token": ["no", "yes"].',
                param=WHERE,
            )
    if tokens is None and method is None:
        return None
    if tokens is None:
        raise ConfigError(f"The method {method} needs classifier_from_token.", param=WHERE)
    if not is_flag and not checkpoint.is_language_model:  # a record of how the stored classifier was made
        return None
    if method not in METHODS:
        raise ConfigError(
            f"classifier_from_token needs a method: {' or '.join(METHODS)} (or is_original_qwen3_reranker).",
            param="hf_overrides.method",
        )
    return Statement(Tokens(method, tuple(tokens)), authority, f"classifier_from_token of {origin}")


def _from_chain(checkpoint: Checkpoint) -> Statement[Source] | None:
    chain = checkpoint.chain
    if chain is None:
        return None
    if chain.logit_score is not None:
        score = chain.logit_score
        ids = (score.true_id,) if score.false_id is None else (score.false_id, score.true_id)
        kind: HeadKind = "no_post_processing" if score.false_id is None else "from_2_way_softmax"
        return Statement(Tokens(kind, ids), Authority.FILES, score.origin)
    origin = "modules.json"
    if not chain.is_cross_encoder:
        return Statement("embedding", Authority.FILES, origin)
    return Statement("modules" if chain.pooling else "classifier", Authority.FILES, origin)


def _from_architecture(checkpoint: Checkpoint) -> Statement[Source] | None:
    if checkpoint.chain is not None:
        return None
    if checkpoint.task in HEADLESS:
        if _is_classifier_by_its_code(checkpoint):
            return Statement("classifier", Authority.FILES, "auto_map and the tensors of its head")
        if (origin := _calls_it_cross_encoder(checkpoint)) and "architectures" not in checkpoint.overrides:
            raise ModelLoadError(
                f"{checkpoint.label} is a {checkpoint.architecture}, which has no head, and {origin} calls it a "
                "cross-encoder: its head is missing, or modules.json, which says what follows the network. Download "
                "the whole checkpoint. A flag decides as well: --hf-overrides "
                f'\'{{"architectures": ["{checkpoint.family.body}ForSequenceClassification"]}}\' where the files '
                f'hold a head, or ["{checkpoint.architecture}"] to embed query and document apart.'
            )
        return Statement("embedding", Authority.FILES, "config.json")
    if checkpoint.task == "ForSequenceClassification" and not checkpoint.is_language_model:
        return Statement("classifier", Authority.FILES, "config.json")
    return None


def _calls_it_cross_encoder(checkpoint: Checkpoint) -> str:
    """Where the files, or what is published of them, say so; empty where nothing does."""
    config, identity = checkpoint.files.config, checkpoint.identity
    if checkpoint.metadata.get("model_type") == "CrossEncoder":
        return METADATA
    if config.get("sbert_ce_default_activation_function") or config.get("sentence_transformers"):
        return "the activation in config.json"
    return f"{identity.origin}, which names {identity.id}," if identity else ""


def _is_classifier_by_its_code(checkpoint: Checkpoint) -> bool:
    """Its class is the bare network, but its authors' code reads a classifier, which the files hold."""
    tensors = checkpoint.files.tensors if checkpoint.has_weights else {}
    stores_head = not checkpoint.has_weights or any(name in tensors for name in checkpoint.family.head_tensors)
    return "AutoModelForSequenceClassification" in checkpoint.files.remote_code and stores_head


def _from_saved_prompt(checkpoint: Checkpoint) -> Statement[Source] | None:
    """A chat template that is a published prompt word for word: it says which answer the model was asked for."""
    name = same_as_built_in(checkpoint.files)
    return None if name is None else _of_prompt(name, checkpoint, Authority.FILES, "its chat template, the prompt")


def _from_table(checkpoint: Checkpoint) -> Statement[Source] | None:
    identity = checkpoint.identity
    tokens = tokens_of(identity.model) if identity else None
    if identity is None or tokens is None:
        return None
    return Statement(tokens, Authority.PUBLISHED, f"what is published of {identity.id}")


def _from_asked_prompt(checkpoint: Checkpoint) -> Statement[Source] | None:
    """``--score-template NAME`` names a prompt that asks for certain answers."""
    name = checkpoint.asked_prompt
    return None if name is None else _of_prompt(name, checkpoint, Authority.USUAL, "--score-template")


def _of_prompt(name: str, checkpoint: Checkpoint, authority: Authority, origin: str) -> Statement[Source] | None:
    """The tokens of the models that are published with this prompt, where they agree."""
    found = {
        tokens_of(model)
        for model in published_models()
        if model.template == name
        and checkpoint.family.body in {a.removesuffix(checkpoint.family.language_model) for a in model.architectures}
    } - {None}
    tokens = found.pop() if len(found) == 1 else None
    return None if tokens is None else Statement(tokens, authority, f"{origin} {name}")


def tokens_of(model: Published) -> Tokens | None:
    """The answer tokens that a published model is scored by; None where it is scored by a head of its own."""
    kind = model.head_kind
    return None if kind is None else Tokens(kind, model.tokens or model.token_ids)
