"""Families of decoders, and EuroBERT, a decoder that sees both ways."""

from __future__ import annotations

from typing import Any

from tests.families.family import Family
from tests.families.oracles import gemma_ids, joined_ids, mxbai_ids, pair_ids, qwen3_ids
from tests.families.own_code import (
    bidirectional_logits,
    nemotron_ids,
    qwen3_vl_ids,
    save_bidirectional,
    save_qwen3_vl,
)
from tests.support.jina_m0 import jina_m0_ids, jina_m0_logits, save_jina_m0


def _decoder(**changes: Any) -> dict[str, Any]:
    usual = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "max_position_embeddings": 4096,
    }  # fmt: skip
    return usual | changes


_ANY_PROMPT = "--score-template (none: query and document joined); --hf-overrides names the tokens"
_ANSWER = {
    "hf_overrides": {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"},
    "score_template": "none",
}
_NO_SPECIALS = {"bos_token_id": None, "eos_token_id": None}

DECODERS: dict[str, Family] = {
    "qwen3": Family(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        tokenizer="qwen",
        models="Qwen3-Reranker 0.6B, 4B, 8B, original and converted",
        scoring="the official prompt; lm_head[yes] - lm_head[no]",
        ids=qwen3_ids,
        name="Qwen3-Reranker-0.6B",
        tokens=("no", "yes"),
        shapes={
            "tied": _decoder(head_dim=32, tie_word_embeddings=True),
            "untied, no grouping": _decoder(head_dim=16, num_key_value_heads=4, dtype="bfloat16"),
            "windows behind the first layer": _decoder(
                head_dim=16, use_sliding_window=True, sliding_window=16, max_window_layers=1
            ),
        },
    ),
    "qwen2": Family(
        model_type="qwen2",
        architecture="Qwen2ForCausalLM",
        tokenizer="qwen",
        models="mxbai-rerank-base-v2, mxbai-rerank-large-v2",
        scoring="the published prompt, with or without an instruction; lm_head[1] - lm_head[0]",
        ids=mxbai_ids,
        name="mxbai-rerank-base-v2",
        tokens=("0", "1"),
        shapes={
            "tied": _decoder(tie_word_embeddings=True),
            "untied, bf16 on disk, one key head": _decoder(num_key_value_heads=1, dtype="bfloat16", rope_theta=1e6),
            "six layers": _decoder(num_hidden_layers=6, hidden_size=48, intermediate_size=64),
        },
    ),
    "gemma": Family(
        model_type="gemma",
        architecture="GemmaForCausalLM",
        tokenizer="gemma",
        models="bge-reranker-v2-gemma",
        scoring="FlagEmbedding's prompt; lm_head[Yes]",
        ids=gemma_ids,
        name="bge-reranker-v2-gemma",
        tokens=("Yes",),
        shapes={
            "one key head": _decoder(head_dim=24, num_key_value_heads=1),
            "no grouping, bf16 on disk, gelu as published": _decoder(
                head_dim=16, num_key_value_heads=4, dtype="bfloat16", config_changes={"hidden_act": "gelu"}
            ),
            "one layer": _decoder(head_dim=32, num_hidden_layers=1),
        },
    ),
    "llama": Family(
        model_type="llama",
        architecture="LlamaForSequenceClassification",
        tokenizer="llama",
        models="rerankers trained on Llama with a one-label head",
        scoring="--score-template, or query and document joined; score.weight",
        ids=joined_ids,
        tokens=("score",),
        shapes={
            "grouped, no biases": _decoder(pad_token_id=1957, config_changes={"use_sep_token": False}),
            "biases everywhere, llama3 rope": _decoder(
                pad_token_id=1957,
                attention_bias=True,
                mlp_bias=True,
                config_changes={"use_sep_token": False},
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 5e5,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            ),
            "dynamic rope, where it begins": _decoder(
                pad_token_id=1957,
                num_hidden_layers=1,
                max_position_embeddings=1024,
                config_changes={"use_sep_token": False},
                rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
            ),
        },
    ),
    "llama_bidirec": Family(
        model_type="llama_bidirec",
        architecture="LlamaBidirectionalForSequenceClassification",
        tokenizer="llama",
        models="llama-nemotron-rerank-1b-v2, as published",
        scoring="the published prompt, every token sees all of its pair; mean, first or last token, score.weight, "
        "divided by the temperature",
        ids=nemotron_ids,
        shapes={
            "mean, llama3 rope, a temperature": _decoder(
                pooling="avg",
                temperature=0.2,
                max_position_embeddings=2048,
                rope_parameters={
                    "rope_type": "llama3",
                    "rope_theta": 5e5,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                },
            ),
            "first token": _decoder(pooling="cls", temperature=1.0, num_hidden_layers=2),
            "last token": _decoder(pooling="last", temperature=2.0, num_hidden_layers=1),
        },
        write=save_bidirectional,
        oracle=bidirectional_logits,
    ),
    "mistral": Family(
        model_type="mistral",
        architecture="MistralForCausalLM",
        tokenizer="llama",
        models="rerankers trained on Mistral that answer with a token",
        scoring="--score-template (none: query and document joined); --hf-overrides names the tokens",
        ids=joined_ids,
        tokens=("no", "yes"),
        settings={
            "hf_overrides": {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"},
            "score_template": "none",
        },
        shapes={
            "no window": _decoder(sliding_window=None, head_dim=32),
            "window of 24 tokens": _decoder(sliding_window=24, head_dim=32),
            "window as long as the model": _decoder(sliding_window=4096, num_hidden_layers=2),
        },
    ),
    "ministral": Family(
        model_type="ministral",
        architecture="MinistralForCausalLM",
        tokenizer="llama",
        models="rerankers trained on Ministral",
        scoring=_ANY_PROMPT,
        ids=joined_ids,
        tokens=("no", "yes"),
        settings=_ANSWER,
        shapes={
            "every other layer with a window of 16": _decoder(
                sliding_window=16, layer_types=["sliding_attention", "full_attention", "sliding_attention"], head_dim=16
            ),
        },
    ),
    "ministral3": Family(
        model_type="ministral3",
        architecture="Ministral3ForCausalLM",
        tokenizer="llama",
        models="rerankers trained on Ministral 3, up to its original length",
        scoring=_ANY_PROMPT,
        ids=joined_ids,
        tokens=("no", "yes"),
        settings=_ANSWER,
        shapes={
            "yarn": _decoder(
                head_dim=32,
                max_position_embeddings=16384,
                rope_parameters={
                    "rope_type": "yarn",
                    "rope_theta": 1e6,
                    "factor": 16.0,
                    "original_max_position_embeddings": 1024,
                    "max_position_embeddings": 16384,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                    "llama_4_scaling_beta": 0.1,
                },
            ),
        },
    ),
    "gemma2": Family(
        model_type="gemma2",
        architecture="Gemma2ForCausalLM",
        tokenizer="gemma",
        models="rerankers trained on Gemma 2",
        scoring=f"{_ANY_PROMPT}; logits are capped before they are subtracted",
        ids=joined_ids,
        tokens=("no", "yes"),
        settings=_ANSWER,
        shapes={
            "caps that bite, a window of 16": _decoder(
                head_dim=24,
                query_pre_attn_scalar=20,
                sliding_window=16,
                attn_logit_softcapping=2.0,
                final_logit_softcapping=3.0,
            ),
            "bf16 on disk, one key head, usual caps": _decoder(
                head_dim=16, num_key_value_heads=1, num_hidden_layers=2, dtype="bfloat16"
            ),
            "no caps": _decoder(
                head_dim=16, num_hidden_layers=2, attn_logit_softcapping=None, final_logit_softcapping=None
            ),
        },
    ),
    "gemma3_text": Family(
        model_type="gemma3_text",
        architecture="Gemma3TextForSequenceClassification",
        tokenizer="gemma",
        models="rerankers trained on Gemma 3, its text networks",
        scoring="--score-template, or query and document joined; score.weight",
        ids=joined_ids,
        tokens=("score",),
        shapes={
            "a window of 16, two rope bases": _decoder(
                head_dim=16,
                num_hidden_layers=6,
                query_pre_attn_scalar=16,
                sliding_window=16,
                pad_token_id=0,
                config_changes={"use_sep_token": False},
            ),
            "config of transformers 4, linear scaling of full layers": _decoder(
                head_dim=24,
                num_hidden_layers=3,
                sliding_window=8,
                pad_token_id=0,
                layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                rope_parameters={
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
                config_changes={
                    "use_sep_token": False,
                    "rope_parameters": None,
                    "rope_theta": 1e6,
                    "rope_local_base_freq": 1e4,
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                },
            ),
        },
    ),
    "phi3": Family(
        model_type="phi3",
        architecture="Phi3ForCausalLM",
        tokenizer="llama",
        models="rerankers trained on Phi-3, Phi-4 and Phi-4-mini, up to the original length of its rotation",
        scoring=_ANY_PROMPT,
        ids=joined_ids,
        tokens=("no", "yes"),
        settings=_ANSWER,
        shapes={
            "fused projections, a window of 24": _decoder(sliding_window=24, pad_token_id=0, **_NO_SPECIALS),
            "three quarters of a head rotate, longrope": _decoder(
                pad_token_id=0,
                original_max_position_embeddings=1024,
                max_position_embeddings=4096,
                **_NO_SPECIALS,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "partial_rotary_factor": 0.75,
                    "short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 3.0],
                    "long_factor": [4.0] * 6,
                },
            ),
        },
    ),
    "granite": Family(
        model_type="granite",
        architecture="GraniteForCausalLM",
        tokenizer="llama",
        models="rerankers trained on Granite 3",
        scoring=f"{_ANY_PROMPT}; logits are divided",
        ids=joined_ids,
        tokens=("no", "yes"),
        settings=_ANSWER,
        shapes={
            "all four factors": _decoder(
                embedding_multiplier=12.0,
                attention_multiplier=0.1,
                residual_multiplier=0.22,
                logits_scaling=8.0,
                tie_word_embeddings=True,
            ),
        },
    ),
    "qwen3_vl": Family(
        model_type="qwen3_vl",
        architecture="Qwen3VLForConditionalGeneration",
        tokenizer="qwen",
        models="Qwen3-VL-Reranker 2B and 8B, texts and pictures",
        scoring="the published prompt; lm_head[yes] - lm_head[no]",
        ids=qwen3_vl_ids,
        name="Qwen3-VL-Reranker-2B",
        tokens=("no", "yes"),
        write=save_qwen3_vl,
        shapes={
            "tied": _decoder(
                head_dim=32,
                tied=True,
                rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [8, 4, 4]},
            ),
            "untied": _decoder(
                head_dim=16,
                tied=False,
                num_hidden_layers=2,
                rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2]},
            ),
        },
    ),
    "qwen2_vl": Family(
        model_type="qwen2_vl",
        architecture="JinaVLForRanking",
        tokenizer="qwen",
        models="jina-reranker-m0, as published, texts and pictures",
        scoring="the published prompt, the document first; the last token through a dense layer, relu and one row, "
        "less 2.65",
        ids=jina_m0_ids,
        write=save_jina_m0,
        oracle=jina_m0_logits,
        shapes={
            "as published": _decoder(
                rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
            ),
            "names of transformers 5": _decoder(
                newer=True,
                num_hidden_layers=2,
                num_key_value_heads=1,
                rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
            ),
        },
    ),
    "qwen3_moe": Family(
        model_type="qwen3_moe",
        architecture="Qwen3MoeForCausalLM",
        tokenizer="qwen",
        models="rerankers trained on Qwen3-30B-A3B",
        scoring=_ANY_PROMPT,
        ids=joined_ids,
        tokens=("no", "yes"),
        settings=_ANSWER,
        shapes={
            "two of six experts, the first layer dense": _decoder(
                head_dim=16,
                num_experts=6,
                num_experts_per_tok=2,
                moe_intermediate_size=24,
                norm_topk_prob=True,
                mlp_only_layers=[0],
            ),
        },
    ),
    "eurobert": Family(
        model_type="eurobert",
        architecture="EuroBertForSequenceClassification",
        tokenizer="modernbert",
        models="cross-encoders trained on EuroBERT",
        scoring="the tokenizer's pair form; dense layer, gelu and classifier of the first token, the mean or each",
        ids=pair_ids,
        shapes={
            f"{pooling}": _decoder(
                num_hidden_layers=layers,
                classifier_pooling=pooling,
                pad_token_id=3,
                bos_token_id=1,
                eos_token_id=2,
                mask_token_id=4,
                max_position_embeddings=512,
            )
            for pooling, layers in (("late", 3), ("mean", 1), ("bos", 2))
        },
    ),
}
