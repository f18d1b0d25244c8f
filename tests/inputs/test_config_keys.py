"""Keys of config.json are known or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from engine.checkpoint.config_defaults import class_defaults
from engine.checkpoint.config_keys import check_config_keys
from engine.checkpoint.config_names import usual_config
from engine.checkpoint.families import FAMILIES
from engine.checkpoint.resolve import resolve_model
from engine.config import ModelConfig
from engine.errors import ConfigError

Make = Callable[..., Path]
_MADE_UP = (
    "transformers_version",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "_name_or_path",
    "model_type",
    "vision_config",
)


def test_the_defaults_are_those_of_the_installed_transformers() -> None:
    for model_type in set(FAMILIES) - {"new", "jina_bert", "llama_bidirec"}:
        theirs = usual_config("x", transformers.AutoConfig.for_model(model_type).to_dict())
        for key, value in class_defaults(model_type).items():
            assert theirs.get(key) == value, f"{model_type}: {key}"
        missing = set(theirs) - set(class_defaults(model_type)) - {*_MADE_UP, "layer_types", "rope_parameters"}
        assert not missing
        check_config_keys("x", theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_causal": "no"}, "has is_causal = 'no', which is not what this network computes"),
        ({"causal": False}, "has causal = False"),
        ({"embedding_multiplier": 12.0}, "has embedding_multiplier"),
        ({"query_pre_attn_scalar": 99}, "has query_pre_attn_scalar"),
        ({"attn_logit_softcapping": 50.0}, "has attn_logit_softcapping"),
        ({"pooling": "avg"}, "has pooling = 'avg'"),
        ({"temperature": 0.2}, "has temperature = 0.2"),
        ({"use_bidirectional_attention": True}, "has use_bidirectional_attention = True"),
        ({"final_logit_softcapping": 30.0}, "has final_logit_softcapping = 30.0"),
        ({"attention_multiplier": 0.5}, "has attention_multiplier"),
        ({"residual_multiplier": 0.5}, "has residual_multiplier"),
        ({"is_encoder_decoder": True}, "has is_encoder_decoder = True"),
        ({"num_experts": 4}, "has num_experts = 4"),
        ({"layer_types": ["linear_attention"]}, "layers of the kind linear_attention"),
        ({"layer_types": ["sliding_attention"]}, "layers of the kind sliding_attention"),
    ],
)
def test_a_key_that_changes_the_computation(small: Make, changes: dict[str, Any], message: str) -> None:
    folder = small(config_changes=changes)
    with pytest.raises(ConfigError, match=message):
        resolve_model(ModelConfig(model=str(folder)))
    resolve_model(ModelConfig(model=str(folder), ignore_config_key=tuple(changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false', which must be true or false"),
        ({"rope_theta": None}, "rope_theta = null"),
        ({"architectures": ["Qwen3ForCausalLM", "Qwen3Model"]}, "names several architectures"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Identity", "scale": 5}}, "has scale in sentence_trans"),
    ],
)
def test_values_that_are_none(small: Make, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_model(ModelConfig(model=str(small(config_changes=changes))))


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("roberta", {"pad_token_id": 0}, "pad_token_id = 0. Positions of a roberta network are counted from it"),
        ("xlm-roberta", {"pad_token_id": None}, "pad_token_id = None"),
        ("camembert", {"pad_token_id": 3}, "pad_token_id = 3"),
        ("bert", {"is_decoder": True}, "is_decoder = True"),
        ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention = True"),
        ("modernbert", {"sliding_window": 64}, "sliding_window = 64"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
        ("mistral", {"layer_types": ["chunked_attention"]}, "layer_types = \\['chunked_attention'\\]"),
        ("qwen2", {"use_mrope": True}, "use_mrope = True"),
        ("granite", {"normalization_function": "layernorm"}, "normalization_function"),
    ],
)
def test_keys_of_one_family(model_type: str, changes: dict[str, Any], message: str) -> None:
    config = {"model_type": model_type, "hidden_size": 48, "num_attention_heads": 4, **changes}
    with pytest.raises(ConfigError, match=message):
        check_config_keys("x", config)
    check_config_keys("x", config, tuple(changes))


def test_neutral_values(small: Make) -> None:
    neutral = {
        "is_causal": True, "temperature": 1.0, "pooling": None, "layer_types": ["full_attention"], "use_cache": False,
        "attention_dropout": 0.3, "unsloth_version": "1", "_attn_implementation_autoset": True, "pretraining_tp": 2,
    }  # fmt: skip
    resolve_model(ModelConfig(model=str(small(config_changes=neutral))))


_BERT = {"attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_size": 384, "num_attention_heads": 12,
         "position_embedding_type": "absolute", "type_vocab_size": 2, "classifier_dropout": None}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {  # written from descriptions; copies are in test_published_configs.py
    "ms-marco-MiniLM": _BERT | {
        "model_type": "bert", "gradient_checkpointing": False, "use_cache": True, "layer_norm_eps": 1e-12,
        "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity",
    },
    "bert of another language": _BERT | {
        "model_type": "bert", "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform",
    },
    "bge-reranker": _BERT | {"model_type": "xlm-roberta", "output_past": True, "type_vocab_size": 1, "bos_token_id": 0},
    "mxbai-rerank-v1": {
        "model_type": "deberta-v2", "hidden_size": 384, "num_attention_heads": 6, "relative_attention": True,
        "max_relative_positions": -1, "norm_rel_ebd": "layer_norm", "pooler_dropout": 0, "pooler_hidden_act": "gelu",
        "pooler_hidden_size": 384, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "legacy": True,
        "position_buckets": 256, "share_att_key": True, "type_vocab_size": 0, "attention_head_size": 64,
    },
    "gte-reranker-modernbert": {
        "model_type": "modernbert", "attention_bias": False, "classifier_pooling": "mean", "decoder_bias": True,
        "deterministic_flash_attn": False, "embedding_dropout": 0.0, "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "layer_norm_eps": 1e-5, "norm_bias": False,
        "position_embedding_type": "absolute", "reference_compile": None, "repad_logits_with_grad": False,
        "sparse_pred_ignore_index": -100, "sparse_prediction": False, "initializer_cutoff_factor": 2.0,
    },
    "gte-multilingual-reranker": {
        "model_type": "new", "layer_norm_type": "layer_norm", "logn_attention_clip1": False, "pack_qkv": True,
        "logn_attention_scale": False, "position_embedding_type": "rope", "rope_theta": 20000, "unpad_inputs": False,
        "rope_scaling": {"factor": 8.0, "type": "ntk"}, "use_memory_efficient_attention": False, "type_vocab_size": 1,
    },
    "bge-reranker-v2-gemma": {"model_type": "gemma", "hidden_activation": None, "head_dim": 256},
    "mxbai-rerank-v2": {"model_type": "qwen2", "max_window_layers": 21, "sliding_window": 32768, "rms_norm_eps": 1e-6},
    "FollowIR": {"model_type": "mistral", "sliding_window": 4096, "rope_theta": 10000.0, "num_key_value_heads": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_pass(name: str) -> None:
    check_config_keys(name, PUBLISHED[name])


def test_a_cap_that_gemma_3_takes_and_leaves_out_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"attn_logit_softcapping = 30\.0, which changes what a gemma3_text network"):
        check_config_keys("x", {"model_type": "gemma3_text", "attn_logit_softcapping": 30.0})
    check_config_keys("x", {"model_type": "gemma3_text", "attn_logit_softcapping": None})
