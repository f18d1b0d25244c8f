"""The keys of config.json: those that are computed with, those that mean nothing to a forward pass, and no others.

Any other key whose value is not the default of the architecture's own config class changes the computation in a way
that is not written here, so it is refused by name; keys that are left out have that default (``config_defaults.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.checkpoint.config_defaults import class_defaults, with_defaults
from engine.checkpoint.families import family_of
from engine.errors import ConfigError

_HEAD = (
    *("architectures", "model_type", "num_labels", "id2label", "label2id", "problem_type", "classifier_from_token"),
    *("method", "is_original_qwen3_reranker", "use_sep_token", "use_pad_token", "head_dtype", "logit_mean"),
    *("logit_sigma", "sentence_transformers", "sbert_ce_default_activation_function", "classifier_pooling"),
)
_BODY = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("max_position_embeddings", "tie_word_embeddings", "dtype", "torch_dtype", "quantization_config"),
    *("compression_config", "pad_token_id"),
)
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
_DECODER = (*_ROPE, "num_key_value_heads", "head_dim", "rms_norm_eps")
_WINDOWS = ("use_sliding_window", "sliding_window", "layer_types", "max_window_layers")
_GEMMA3 = (
    *("attention_bias", "hidden_activation", "query_pre_attn_scalar", "sliding_window", "final_logit_softcapping"),
    "layer_types",
)
"""Without ``attn_logit_softcapping``: transformers' Gemma 3 takes the key, and computes without it."""
_GEMMA = (*_GEMMA3, "attn_logit_softcapping")
_EXPERTS = (
    *("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step"),
    "mlp_only_layers",
)
_FACTORS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
_BERT = ("layer_norm_eps", "type_vocab_size", "position_embedding_type")
_GTE = (*_ROPE, *_BERT, "pack_qkv", "layer_norm_type", "logn_attention_scale")
_NOMIC = (
    *("prenorm", "rotary_emb_fraction", "rotary_emb_interleaved", "rotary_scaling_factor", "use_rms_norm"),
    *("parallel_block", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "num_experts", "moe_every_n_layers"),
)
COMPUTED: dict[str, tuple[str, ...]] = {
    "qwen3": (*_DECODER, *_WINDOWS, "attention_bias"),
    "qwen2": (*_DECODER, *_WINDOWS),
    "llama": (*_DECODER, "attention_bias", "mlp_bias"),
    "llama_bidirec": (*_DECODER, "attention_bias", "mlp_bias"),
    "mistral": (*_DECODER, "sliding_window"),
    "ministral": (*_DECODER, "sliding_window", "layer_types"),
    "ministral3": (*_DECODER, "sliding_window"),
    "gemma": (*_DECODER, "attention_bias"),
    "gemma2": (*_DECODER, *_GEMMA),
    "gemma3_text": (*_DECODER, *_GEMMA3, "rope_local_base_freq", "sliding_window_pattern"),
    "phi3": (*_DECODER, "sliding_window", "original_max_position_embeddings"),
    "granite": (*_DECODER, *_FACTORS, "attention_bias", "mlp_bias"),
    "qwen3_vl": (*_DECODER, "attention_bias"),
    "qwen2_vl": (*_DECODER, *_WINDOWS),
    "qwen3_moe": (*_DECODER, *_EXPERTS, "use_sliding_window", "sliding_window", "attention_bias"),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": (*_BERT, "embedding_size"),
    "distilbert": ("layer_norm_eps",),
    "mpnet": ("layer_norm_eps", "relative_attention_num_buckets"),
    "nomic_bert": (*_ROPE, *_NOMIC, "layer_norm_eps", "type_vocab_size"),
    "jina_bert": (*_BERT, "feed_forward_type"),
    "modernbert": (
        *("hidden_activation", "norm_eps", "norm_bias", "attention_bias", "mlp_bias", "layer_types"),
        *("rope_parameters", "local_attention", "global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"),
        *("classifier_bias", "classifier_activation"),
    ),
    "eurobert": (*_DECODER, "attention_bias", "mlp_bias"),
    "deberta-v2": (
        *("layer_norm_eps", "type_vocab_size", "relative_attention", "max_relative_positions", "position_buckets"),
        *("position_biased_input", "pos_att_type", "share_att_key", "norm_rel_ebd", "conv_kernel_size"),
        *("embedding_size", "pooler_hidden_act"),
    ),
    "new": _GTE,
    "gte": _GTE,
}
"""By ``model_type``: what its network reads beside ``_BODY`` and ``_HEAD``."""
HARMLESS = frozenset(
    (
        *("transformers_version", "use_cache", "torchscript", "return_dict", "output_attentions", "output_past"),
        *("output_hidden_states", "gradient_checkpointing", "finetuning_task", "tokenizer_class", "name_or_path"),
        *("initializer_range", "initializer_factor", "initializer_cutoff_factor", "task_specific_params"),
        *("pretraining_tp", "chunk_size_feed_forward", "classifier_dropout", "directionality", "pooler_fc_size"),
        *("pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type", "padding_idx"),
        *("pooler_dropout", "legacy", "z_steps", "conv_act", "conv_groups", "unpad_inputs"),
        *("use_memory_efficient_attention", "use_flash_attn", "attn_implementation", "deterministic_flash_attn"),
        *("reference_compile", "repad_logits_with_grad", "decoder_bias", "sparse_prediction", "auto_map"),
        *("sparse_pred_ignore_index", "unsloth_version", "unsloth_fixed", "model_max_length", "custom_pipelines"),
        *("use_bfloat16", "tf_legacy_loss", "xla_device"),
        *("max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
        *("diversity_penalty", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "penalty_alpha"),
        *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores"),
        *("return_dict_in_generate", "remove_invalid_values", "bad_words_ids", "suppress_tokens", "generation_config"),
    )
)
"""What means nothing to a forward pass of any of these networks: kernels, training, how texts are generated."""
_ENDINGS = ("dropout", "dropout_prob", "_pdrop", "_token_id")
_UNREAD: dict[str, tuple[str, ...]] = {
    "modernbert": ("position_embedding_type", "layer_norm_eps", "hidden_act"),
    "gemma": ("hidden_activation",),
    "gemma2": ("hidden_act", "cache_implementation"),
    "gemma3_text": ("hidden_act", "cache_implementation"),
    "qwen3_vl": ("vision_config", "video_preprocessor_config"),
    "qwen2_vl": ("vision_config", "attention_bias"),
    "qwen3_moe": ("output_router_logits", "router_aux_loss_coef", "max_window_layers"),
    "qwen2": ("attention_bias",),
    "jina_bert": ("emb_pooler", "attn_implementation"),
    "xlm-roberta": ("emb_pooler",),
    "distilbert": ("sinusoidal_pos_embds", "tie_weights_"),
    "eurobert": ("bos_token", "eos_token", "pad_token", "mask_token"),
    "electra": ("summary_type", "summary_use_proj", "summary_activation", "embedding_dropout"),
    "nomic_bert": (
        *("use_xentropy", "fused_bias_fc", "fused_dropout_add_ln", "max_trained_positions", "moe_top_k"),
        *("scale_attn_by_inverse_layer_idx", "scale_attn_weights", "reorder_and_upcast_attn", "dense_seq_output"),
        *("pad_vocab_size_multiple", "last_layer_subset", "summary_type", "summary_use_proj"),
        *("summary_activation", "summary_proj_to_labels", "mlp_residual_dropout", "expert_choice_router"),
        *("ffn_div", "moe_normalize_expert_weights", "moe_resid_pdrop", "moe_impl", "router_aux_loss_coef"),
        "use_flash_attn",
    ),
}
"""Keys that published files of the family hold and its network never reads."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_bidirectional_attention": (None, False),
    "causal": (None, False),
    "causal_mask": (None, False),
    "temperature": (None, 1.0),
    "attention_bias": (None, False),
    "mlp_bias": (None, False),
    "logn_attention_clip1": (None, False),
    "use_mrope": (None, False),
    "pruned_heads": (None, {}),
    "is_decoder": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "tie_encoder_decoder": (None, False),
}
"""Values at which a key that is not computed with changes nothing."""


ROPE_KEYS = frozenset(
    (
        *("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor"),
        *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "finetuned"),
        *("low_freq_factor", "high_freq_factor", "mixed_b", "divisors"),
        *("short_factor", "long_factor", "llama_4_scaling_beta", "max_position_embeddings"),
    )
)
"""Keys inside ``rope_scaling`` and ``rope_parameters``; ModernBERT has such an object for each kind of layer."""


def computed_keys(model_type: str) -> tuple[str, ...]:
    """The keys that a network of this type reads."""
    return (*_BODY, *COMPUTED[model_type])


def complete_config(label: str, config: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """``config`` with the defaults of what it leaves out; raises as ``check_config_keys`` and ``with_defaults`` do."""
    check_config_keys(label, config, ignored)
    return with_defaults(label, config, computed_keys(str(config["model_type"])))


def check_config_keys(label: str, config: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> None:
    """Raises ``ConfigError`` for the first key that changes the computation and is not computed with.

    ``config``: config.json after overrides, of a family that is supported. ``ignored``: ``--ignore-config-key``.
    """
    model_type = config["model_type"]
    known = {*_HEAD, *_BODY, *COMPUTED[model_type], *HARMLESS, *_UNREAD.get(model_type, ())}
    for key, value in config.items():
        if key in ignored or key in known or key.startswith("_") or key.endswith(_ENDINGS):
            continue
        if key == "is_causal":
            _check_mask(label, value, config)
        elif not _is_neutral(key, value, config, class_defaults(model_type)):
            raise ConfigError(
                f"config.json of {label} has {key} = {value!r}, which changes what a {model_type} network computes and "
                "is not supported here, or is not known: scores without it may be wrong. If it means nothing, pass "
                f"--ignore-config-key {key}.",
                param="ignore_config_key",
            )
    _check_layers(label, config, ignored)
    _check_rope(label, config, ignored)
    _check_padding(label, config, ignored)


def _is_neutral(key: str, value: Any, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    if (
        key in ("causal", "causal_mask") and family_of(config["model_type"]).decoder
    ):  # an encoder's key, which decoders call is_causal
        return value is None or value is True
    if key in NEUTRAL:
        return value in NEUTRAL[key]
    if key == "pooler_hidden_size":
        return bool(value == config.get("hidden_size"))
    if key == "clf_pooling":  # EuroBERT's own code reads this key, and transformers the other
        return bool(value == config.get("classifier_pooling", "late"))
    if key in ("attention_head_size", "head_dim"):
        return value is None or bool(value * config["num_attention_heads"] == config["hidden_size"])
    return value is None or (key in defaults and bool(value == defaults[key]))


def _check_mask(label: str, value: Any, config: Mapping[str, Any]) -> None:
    """Decoders compute both masks, but a window that looks both ways is written for encoders only."""
    is_decoder = family_of(config["model_type"]).decoder
    if value not in (None, True, False) or (value is True and not family_of(config["model_type"]).causal):
        problem = "is not what this network computes"
    elif value is False and is_decoder and (config.get("sliding_window") and config.get("use_sliding_window", True)):
        problem = "is not supported together with a sliding_window"
    else:
        return
    raise ConfigError(
        f"config.json of {label} has is_causal = {value!r}, which {problem}. If it means nothing, pass "
        "--ignore-config-key is_causal.",
        param="ignore_config_key",
    )


_LAYERS_WITH_WINDOWS = ("modernbert", "gemma2", "gemma3_text", "ministral")
_NESTED_ROPE = ("modernbert", "gemma3_text")
"""Types whose ``rope_parameters`` hold an object for each kind of layer."""


def _check_layers(label: str, config: Mapping[str, Any], ignored: tuple[str, ...]) -> None:
    """Every layer of a decoder sees all tokens before it, but for windows, where the family has them."""
    kinds = set(config.get("layer_types") or ())
    has_windows = config["model_type"] in _LAYERS_WITH_WINDOWS or config.get("use_sliding_window")
    allowed = {"full_attention", *(["sliding_attention"] if has_windows else [])}
    if "layer_types" not in ignored and (other := sorted(kinds - allowed)):
        raise ConfigError(
            f"config.json of {label} has layers of the kind {other[0]} in layer_types, which are not supported here; "
            f"supported are {', '.join(sorted(allowed))}.",
            param="ignore_config_key",
        )


_COUNT_FROM_PADDING = ("roberta", "xlm-roberta", "camembert")
"""Types whose first position is the row of the table behind the padding's."""


def _check_padding(label: str, config: Mapping[str, Any], ignored: tuple[str, ...]) -> None:
    """All published networks of these types pad with token 1, so their texts begin at row 2."""
    value = config.get("pad_token_id", 1)
    if config["model_type"] in _COUNT_FROM_PADDING and value != 1 and "pad_token_id" not in ignored:
        raise ConfigError(
            f"config.json of {label} has pad_token_id = {value!r}. Positions of a {config['model_type']} network are "
            "counted from it, and only 1 is supported here. If the network was trained with 1, correct the key, or "
            "pass --ignore-config-key pad_token_id.",
            param="ignore_config_key",
        )


_TEXT_ONLY_ROPE = frozenset({"mrope_section", "mrope_interleaved"})
"""Which axis of a picture turns which part of a head; the positions of a text are the same on all axes."""


def _check_rope(label: str, config: Mapping[str, Any], ignored: tuple[str, ...]) -> None:
    """Inside the settings of rotary positions too, every key is known."""
    for name in ("rope_scaling", "rope_parameters"):
        stated = config.get(name) or {}
        nested = config["model_type"] in _NESTED_ROPE and name == "rope_parameters" and isinstance(stated, Mapping)
        for part in stated.values() if nested else [stated]:
            known = ROPE_KEYS | (_TEXT_ONLY_ROPE if config["model_type"] in ("qwen2_vl", "qwen3_vl") else frozenset())
            unknown = sorted(set(part or {}) - known) if isinstance(part, Mapping | None) else [repr(part)]
            if unknown and name not in ignored:
                raise ConfigError(
                    f"config.json of {label} has {unknown[0]} in {name}, which is not supported here, or is not known: "
                    f"positions without it may be wrong. If it means nothing, pass --ignore-config-key {name}.",
                    param="ignore_config_key",
                )
