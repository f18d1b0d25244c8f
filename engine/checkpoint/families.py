"""The families of networks, by ``model_type``. A new one is a row here and a file in ``backends/models/``.

Published models, which are rows too, stand in ``published.toml``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.checkpoint import family_keys as keys
from engine.errors import ConfigError
from engine.model_spec import Pooling


@dataclass(frozen=True, kw_only=True)
class Family:
    """Network bodies that share a ``model_type``."""

    body: str
    """Architectures are this word and one of ``TASKS``."""
    aliases: tuple[str, ...] = ()
    """Other words that architectures of this network begin with."""
    decoder: bool
    """Pairs are read through a prompt, and a language model head may answer; else the tokenizer makes the pairs."""
    causal: bool
    """A token sees those before it; config.json may say otherwise (``is_causal``)."""
    pooling: Pooling
    head_tensors: tuple[str, ...]
    """Where a classification checkpoint keeps the last matrix of its head."""
    position_offset: int = 0
    """Positions that ``max_position_embeddings`` counts and no token can have."""
    head_dim: int | None = None
    """Size of an attention head where config.json states none; None: the hidden size divided among the heads."""
    num_token_types: int = 0
    """Rows of the table of token types where config.json states no ``type_vocab_size``."""
    language_model: str = "ForCausalLM"
    """How the architecture with a language model head ends."""
    template: str | None = None
    """The built-in prompt that all published models of this family have."""
    computed_keys: tuple[str, ...]
    """Keys of config.json that its network reads, beside those that every network does (``config_keys.py``)."""
    unread_keys: tuple[str, ...] = ()
    """Keys that published files of the family hold and its network never reads."""
    counts_from_padding: bool = False
    """Whether its first position is the row of the table behind ``pad_token_id``'s."""
    own_keys: Mapping[str, str] = field(default_factory=dict)
    """Keys of config.json that this family calls otherwise: its own name, the usual one."""


@dataclass(frozen=True, kw_only=True)
class BodySizes:
    """A network body in numbers, as its config.json states them."""

    num_layers: int
    hidden: int
    intermediate: int
    """Features of the MLP, of which a gated one has as many gates."""
    num_heads: int
    num_kv_heads: int
    """Fewer than ``num_heads`` where several query heads share a key/value head."""
    head_dim: int
    vocab_size: int
    num_token_types: int


def _decoder(body: str, **differences: Any) -> Family:
    usual: dict[str, Any] = {"causal": True, "pooling": "last", "head_tensors": ("score.weight",)}
    return Family(body=body, decoder=True, **(usual | differences))


def _encoder(body: str, *head_tensors: str, **differences: Any) -> Family:
    usual: dict[str, Any] = {"causal": False, "pooling": "cls"}
    return Family(body=body, decoder=False, head_tensors=head_tensors, **(usual | differences))


FAMILIES: dict[str, Family] = {
    "qwen3": _decoder("Qwen3", computed_keys=(*keys.DECODER, *keys.WINDOWS, "attention_bias")),
    "qwen2": _decoder("Qwen2", computed_keys=(*keys.DECODER, *keys.WINDOWS), unread_keys=("attention_bias",)),
    "llama": _decoder("Llama", computed_keys=(*keys.DECODER, "attention_bias", "mlp_bias")),
    "llama_bidirec": _decoder(
        "LlamaBidirectional",
        causal=False,
        pooling="mean",
        template="nemotron-rerank",
        own_keys={"pooling": "classifier_pooling", "temperature": "logit_sigma"},
        computed_keys=(*keys.DECODER, "attention_bias", "mlp_bias"),
    ),
    "mistral": _decoder("Mistral", computed_keys=(*keys.DECODER, "sliding_window")),
    "ministral": _decoder("Ministral", computed_keys=(*keys.DECODER, "sliding_window", "layer_types")),
    "ministral3": _decoder("Ministral3", computed_keys=(*keys.DECODER, "sliding_window")),
    "gemma": _decoder(
        "Gemma", head_dim=256, computed_keys=(*keys.DECODER, "attention_bias"), unread_keys=("hidden_activation",)
    ),
    "gemma2": _decoder(
        "Gemma2",
        head_dim=256,
        computed_keys=(*keys.DECODER, *keys.GEMMA),
        unread_keys=("hidden_act", "cache_implementation"),
    ),
    "gemma3_text": _decoder(
        "Gemma3",
        head_dim=256,
        aliases=("Gemma3Text",),
        computed_keys=(*keys.DECODER, *keys.GEMMA3, "rope_local_base_freq", "sliding_window_pattern"),
        unread_keys=("hidden_act", "cache_implementation"),
    ),
    "phi3": _decoder("Phi3", computed_keys=(*keys.DECODER, "sliding_window", "original_max_position_embeddings")),
    "granite": _decoder("Granite", computed_keys=(*keys.DECODER, *keys.FACTORS, "attention_bias", "mlp_bias")),
    "qwen3_vl": _decoder(
        "Qwen3VL",
        language_model="ForConditionalGeneration",
        template="qwen3-vl-reranker",
        computed_keys=(*keys.DECODER, "attention_bias"),
        unread_keys=("vision_config", "video_preprocessor_config"),
    ),
    "qwen2_vl": _decoder(
        "Qwen2VL",
        language_model="ForConditionalGeneration",
        template="jina-reranker-m0",
        head_tensors=("score.2.weight",),
        computed_keys=(*keys.DECODER, *keys.WINDOWS),
        unread_keys=("vision_config", "attention_bias"),
    ),
    "qwen3_moe": _decoder(
        "Qwen3Moe",
        own_keys={"num_local_experts": "num_experts"},
        computed_keys=(*keys.DECODER, *keys.EXPERTS, "use_sliding_window", "sliding_window", "attention_bias"),
        unread_keys=("output_router_logits", "router_aux_loss_coef", "max_window_layers"),
    ),
    "bert": _encoder("Bert", "classifier.weight", num_token_types=2, computed_keys=keys.BERT),
    "roberta": _encoder(
        "Roberta",
        "classifier.out_proj.weight",
        position_offset=2,
        num_token_types=2,
        computed_keys=keys.BERT,
        counts_from_padding=True,
    ),
    "xlm-roberta": _encoder(
        "XLMRoberta",
        "classifier.out_proj.weight",
        position_offset=2,
        num_token_types=2,
        computed_keys=keys.BERT,
        unread_keys=("emb_pooler",),
        counts_from_padding=True,
    ),
    "camembert": _encoder(
        "Camembert",
        "classifier.out_proj.weight",
        position_offset=2,
        num_token_types=2,
        computed_keys=keys.BERT,
        counts_from_padding=True,
    ),
    "electra": _encoder(
        "Electra",
        "classifier.out_proj.weight",
        num_token_types=2,
        computed_keys=(*keys.BERT, "embedding_size"),
        unread_keys=("summary_type", "summary_use_proj", "summary_activation", "embedding_dropout"),
    ),
    "distilbert": _encoder(
        "DistilBert",
        "classifier.weight",
        own_keys=keys.DISTILBERT_NAMES,
        computed_keys=("layer_norm_eps",),
        unread_keys=("sinusoidal_pos_embds", "tie_weights_"),
    ),
    "mpnet": _encoder(
        "MPNet",
        "classifier.out_proj.weight",
        position_offset=2,
        computed_keys=("layer_norm_eps", "relative_attention_num_buckets"),
    ),
    "nomic_bert": _encoder(
        "NomicBert",
        "classifier.weight",
        num_token_types=2,
        own_keys=keys.NOMIC_NAMES,
        computed_keys=(*keys.ROPE, *keys.NOMIC, "layer_norm_eps", "type_vocab_size"),
        unread_keys=keys.NOMIC_UNREAD,
    ),
    "jina_bert": _encoder(
        "JinaBert",
        "classifier.weight",
        num_token_types=2,
        computed_keys=(*keys.BERT, "feed_forward_type"),
        unread_keys=("emb_pooler", "attn_implementation"),
    ),
    "modernbert": _encoder(
        "ModernBert",
        "classifier.weight",
        computed_keys=keys.MODERNBERT,
        unread_keys=("position_embedding_type", "layer_norm_eps", "hidden_act"),
    ),
    "eurobert": _encoder(
        "EuroBert",
        "classifier.weight",
        pooling="late",
        computed_keys=(*keys.DECODER, "attention_bias", "mlp_bias"),
        unread_keys=("bos_token", "eos_token", "pad_token", "mask_token"),
    ),
    "deberta-v2": _encoder("DebertaV2", "classifier.weight", computed_keys=keys.DEBERTA),
    "new": _encoder("New", "classifier.weight", num_token_types=1, computed_keys=keys.GTE),
    "gte": _encoder("Gte", "classifier.weight", num_token_types=1, computed_keys=keys.GTE),
}


def family_of(model_type: str) -> Family:
    """The row of a ``model_type``; raises ``ConfigError`` with what is supported where there is none."""
    if model_type not in FAMILIES:
        raise ConfigError(f"model_type {model_type} is not supported. These are: {supported()}.", param="model")
    return FAMILIES[model_type]


def is_causal(model_type: str, config: Mapping[str, Any]) -> bool:
    """Whether a token sees only those before it: as is usual in the family, unless config.json says ``is_causal``."""
    return family_of(model_type).causal and config.get("is_causal") is not False


def body_sizes(model_type: str, config: Mapping[str, Any]) -> BodySizes:
    """Reads the sizes of a network from its config.json as its family means them; no other place does.

    Raises ``ConfigError`` for an unknown family and for a number that is missing.
    """
    family = family_of(model_type)
    try:
        hidden, num_heads = config["hidden_size"], config["num_attention_heads"]
        return BodySizes(
            num_layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            num_heads=num_heads,
            num_kv_heads=config.get("num_key_value_heads") or num_heads,
            head_dim=config.get("head_dim") or family.head_dim or hidden // num_heads,
            vocab_size=config["vocab_size"],
            num_token_types=num_token_types(model_type, config),
        )
    except KeyError as missing:
        raise ConfigError(f"config.json does not say {missing.args[0]}.", param="model") from None


def num_token_types(model_type: str, config: Mapping[str, Any]) -> int:
    """Rows of the table of token types; 0: the body has none, or it is a family that only transformers knows."""
    family = FAMILIES.get(model_type)
    return int(config.get("type_vocab_size", family.num_token_types if family else 0) or 0)


def rope_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of rotary positions: ``rope_scaling`` (transformers 4) goes before ``rope_parameters`` (5), as there."""
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    return found if isinstance(found, Mapping) else {}


def position_limit(model_type: str, config: Mapping[str, Any]) -> int | None:
    """Tokens of the longest input that the body has positions for, scaled rotations included; None: not stated."""
    positions, offset = config.get("max_position_embeddings"), family_of(model_type).position_offset
    if not isinstance(positions, int) or positions <= offset:
        return None
    scaling = rope_of(config)
    kind, original = scaling.get("rope_type", scaling.get("type")), _original_positions(config)
    if original is not None and (kind in ("longrope", "su") or scaling.get("llama_4_scaling_beta")):
        return min(original, positions - offset)  # behind it the network computes otherwise
    if kind not in ("yarn", "linear"):  # nor dynamic: longer inputs have frequencies of their own length
        return positions - offset
    original = scaling.get("original_max_position_embeddings") or positions
    return max(positions - offset, int(original * float(scaling.get("factor") or 1)))


def _original_positions(config: Mapping[str, Any]) -> int | None:
    """Tokens that the body was trained on before its rotation was scaled; None: not stated."""
    name = "original_max_position_embeddings"
    found = rope_of(config).get(name) or config.get(name)
    return found if isinstance(found, int) else None


Task = Literal["ForCausalLM", "ForSequenceClassification", "ForMaskedLM", "Model", "ForRanking"]
TASKS: tuple[Task, ...] = ("ForCausalLM", "ForSequenceClassification", "ForMaskedLM", "Model")
"""How an architecture's name ends. The last two have no head: they embed."""
RANKERS: dict[str, tuple[str, Task]] = {
    "JinaForRanking": ("qwen3", "ForRanking"),
    "JinaVLForRanking": ("qwen2_vl", "ForSequenceClassification"),
    "HF_ColBERT": ("bert", "Model"),
}
"""Architectures that are called by another name than their body's: its ``model_type``, and the task."""
OF_ARCHITECTURE: dict[str, dict[str, Any]] = {"JinaVLForRanking": {"logit_mean": 2.65}}
"""Values that the code of an architecture holds, where config.json does not state them."""


def supported() -> str:
    """The families, for an error message."""
    decoders = ", ".join(f"{family.body} ({name})" for name, family in FAMILIES.items() if family.decoder)
    encoders = ", ".join(f"{family.body} ({name})" for name, family in FAMILIES.items() if not family.decoder)
    return (
        f"{decoders} as ForCausalLM, ForSequenceClassification or Model; "
        f"{encoders} as ForSequenceClassification or Model; {', '.join(RANKERS)}"
    )
