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
"""Without ``attn_logit_softcapping``: transformers' Gemma 3 takes the key, and computes without it."""
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
    return (*_BODY, *family_of(model_type).computed_keys)


def complete_config(label: str, config: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> dict[str, Any]:
    """``config`` with the defaults of what it leaves out; raises as ``check_config_keys`` and ``with_defaults`` do."""
    check_config_keys(label, config, ignored)
    return with_defaults(label, config, computed_keys(str(config["model_type"])))


def check_config_keys(label: str, config: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> None:
    """Raises ``ConfigError`` for the first key that changes the computation and is not computed with.

    ``config``: config.json after overrides, of a family that is supported. ``ignored``: ``--ignore-config-key``.
    """
    model_type = config["model_type"]
    family = family_of(model_type)
    known = {*_HEAD, *_BODY, *family.computed_keys, *HARMLESS, *family.unread_keys}
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


def _check_padding(label: str, config: Mapping[str, Any], ignored: tuple[str, ...]) -> None:
    """All published networks of these types pad with token 1, so their texts begin at row 2."""
    value = config.get("pad_token_id", 1)
    if family_of(config["model_type"]).counts_from_padding and value != 1 and "pad_token_id" not in ignored:
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
