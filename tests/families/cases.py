"""The families, each with checkpoints of several shapes and with what transformers says of a pair.

This is the one list: the parity tests run it, and ``docs/models.md`` is made from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from engine.checkpoint.families import FAMILIES as RESOLVED
from engine.checkpoint.families import RANKERS
from tests.families.own_code import (
    bidirectional_logits,
    jina_bert_logits,
    nemotron_ids,
    own_ids,
    qwen3_vl_ids,
    save_bidirectional,
    save_jina_bert,
    save_nomic,
    save_qwen3_vl,
)
from tests.support.jina_m0 import jina_m0_ids, jina_m0_logits, save_jina_m0
from tests.support.random_models import save_random

Oracle = Callable[[Path, str, Sequence[str]], list[float]]
"""(checkpoint, query, documents) -> logits."""


@lru_cache(maxsize=2)
def _loaded(folder: Path) -> tuple[Any, Any]:
    import transformers

    folder = folder / "twin" if (folder / "twin").is_dir() else folder
    config = json.loads((folder / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(folder, dtype=torch.float32).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


@torch.inference_mode()
def pair_logits(folder: Path, query: str, documents: Sequence[str]) -> list[float]:
    """A cross-encoder on the tokenizer's own pair form, one unpadded pair at a time."""
    tokenizer, model = _loaded(folder)
    return [model(**tokenizer([query], [text], return_tensors="pt")).logits[0, 0].item() for text in documents]


@torch.inference_mode()
def logits_of_ids(folder: Path, prompts: Sequence[list[int]], tokens: Sequence[str]) -> list[float]:
    """Of a decoder's next token: the first token's logit, or the second's over the first's."""
    tokenizer, model = _loaded(folder)
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    rows = [model(input_ids=torch.tensor([prompt])).logits for prompt in prompts]
    if rows[0].ndim == 2:
        return [row[0, 0].item() for row in rows]
    last = [row[0, -1, ids] for row in rows]
    return [(row[1] - row[0]).item() if len(ids) == 2 else row[0].item() for row in last]


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


MXBAI_TASK = (
    "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
    "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment "
    "(0 for not relevant, 1 for relevant).\nRelevance:"
)


def mxbai_ids(folder: Path, query: str, documents: Sequence[str], instruction: str | None = None) -> list[list[int]]:
    """The published mxbai_rerank: prompts tokenised piece by piece, joined with the ids of a newline."""
    tokenizer, _ = _loaded(folder)
    before = _plain_ids(
        tokenizer,
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n",
    )
    newline, task = _plain_ids(tokenizer, "\n"), _plain_ids(tokenizer, MXBAI_TASK)
    behind = _plain_ids(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
    asked = f"instruction: {instruction}\nquery: {query}" if instruction else f"query: {query}"
    head = _plain_ids(tokenizer, asked)
    return [
        before + head + newline + _plain_ids(tokenizer, f"document: {text}") + newline + task + behind
        for text in documents
    ]


def gemma_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    """FlagEmbedding's FlagLLMReranker."""
    tokenizer, _ = _loaded(folder)
    newline = _plain_ids(tokenizer, "\n")
    task = _plain_ids(
        tokenizer,
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
        "a prediction of either 'Yes' or 'No'.",
    )
    head = [tokenizer.bos_token_id, *_plain_ids(tokenizer, f"A: {query}")]
    return [head + newline + _plain_ids(tokenizer, f"B: {text}") + newline + task for text in documents]


def joined_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    """A decoder without a template, as vLLM reads it: one text, with what the tokenizer puts around it."""
    tokenizer, _ = _loaded(folder)
    return [list(tokenizer(query + text)["input_ids"]) for text in documents]


def qwen3_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    from tests.support.checkpoints import official_qwen3_ids

    return official_qwen3_ids(folder, query, documents)


def pair_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    tokenizer, _ = _loaded(folder)
    return [list(tokenizer([query], [text])["input_ids"][0]) for text in documents]


def save_new(
    folder: Path, architecture: str, tokenizer: str, *, ntk_factor: float = 1.0, rope_theta: float, **settings: Any
) -> Path:
    """A GTE checkpoint as its authors saved it, and beside it the twin that transformers reads (folder ``twin``).

    NTK scaling by f is a base f times as large and frequencies divided by f^(2 / head size), which transformers calls
    linear scaling.
    """
    head_dim = settings["hidden_size"] // settings["num_attention_heads"]
    rope = {"rope_type": "linear", "rope_theta": rope_theta * ntk_factor, "factor": ntk_factor ** (2 / head_dim)}
    twin = save_random(folder / "twin", architecture, tokenizer, rope_parameters=rope, **settings)
    config = json.loads((twin / "config.json").read_text())
    del config["rope_parameters"]
    config |= {
        "architectures": ["NewForSequenceClassification"],
        "model_type": "new",
        "auto_map": {"AutoConfig": "configuration.NewConfig"},
        "position_embedding_type": "rope",
        "rope_theta": rope_theta,
        "rope_scaling": {"type": "ntk", "factor": ntk_factor} if ntk_factor != 1.0 else None,
        "pack_qkv": True,
        "layer_norm_type": "layer_norm",
        "logn_attention_scale": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((twin / name).read_bytes())
    tensors = load_file(twin / "model.safetensors")
    save_file(
        {f"new.{name.removeprefix('gte.')}" if name.startswith("gte.") else name: t for name, t in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


@dataclass(frozen=True)
class Family:
    """One row of the table of families."""

    model_type: str
    architecture: str
    tokenizer: str
    models: str
    """Published rerankers of this family."""
    scoring: str
    """Prompt and head, for people."""
    ids: Callable[..., list[list[int]]]
    shapes: dict[str, dict[str, Any]]
    name: str | None = None
    """Published name, where it is what recognises an original checkpoint."""
    tokens: tuple[str, ...] = ()
    """Empty: a classification head."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of LLM that such a checkpoint needs."""
    write: Callable[..., Path] = save_random
    oracle: Oracle | None = None
    """The written formula, for a network that transformers does not have."""

    @property
    def body(self) -> str:
        """As architectures begin."""
        if self.architecture in RANKERS:
            return RESOLVED[self.model_type].body
        return (
            self.architecture.removesuffix("ForSequenceClassification")
            .removesuffix("ForCausalLM")
            .removesuffix("Model")
        )

    def make(self, folder: Path, shape: str) -> Path:
        return self.write(folder, self.architecture, self.tokenizer, name=self.name, **self.shapes[shape])

    def expected(self, folder: Path, query: str, documents: Sequence[str]) -> list[float]:
        if self.oracle is not None:
            return self.oracle(folder, query, documents)
        if not self.tokens:
            return pair_logits(folder, query, documents)
        return logits_of_ids(folder, self.ids(folder, query, documents), self.tokens)


def _encoder(**changes: Any) -> dict[str, Any]:
    usual = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
    return usual | changes


def _decoder(**changes: Any) -> dict[str, Any]:
    usual = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 96, "max_position_embeddings": 4096,
    }  # fmt: skip
    return usual | changes


_BERT_SHAPES = {
    "three layers": _encoder(),
    "one layer, wide heads, tanh gelu": _encoder(
        num_hidden_layers=1, hidden_size=64, num_attention_heads=2, hidden_act="gelu_new"
    ),
    "six layers, fp16 on disk": _encoder(num_hidden_layers=6, hidden_size=96, num_attention_heads=3, dtype="float16"),
}
_ROBERTA_POSITIONS = {"max_position_embeddings": 514, "pad_token_id": 1, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
_DEBERTA = {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "position_biased_input": False, "max_relative_positions": -1, "type_vocab_size": 0,
}  # fmt: skip

_ANY_PROMPT = "--score-template (none: query and document joined); --hf-overrides names the tokens"
_ANSWER = {
    "hf_overrides": {"classifier_from_token": ["no", "yes"], "method": "from_2_way_softmax"},
    "score_template": "none",
}
_NO_SPECIALS = {"bos_token_id": None, "eos_token_id": None}

FAMILIES: dict[str, Family] = {
    "bert": Family(
        model_type="bert",
        architecture="BertForSequenceClassification",
        tokenizer="bert",
        models="ms-marco-MiniLM-L6-v2 and its siblings",
        scoring="the tokenizer's pair form with token types; pooler and classifier",
        ids=pair_ids,
        shapes={name: shape | {"max_position_embeddings": 512} for name, shape in _BERT_SHAPES.items()},
    ),
    "roberta": Family(
        model_type="roberta",
        architecture="RobertaForSequenceClassification",
        tokenizer="roberta",
        models="stsb-roberta, ms-marco RoBERTa",
        scoring="the tokenizer's pair form; dense layer and classifier",
        ids=pair_ids,
        shapes={name: shape | _ROBERTA_POSITIONS for name, shape in _BERT_SHAPES.items()},
    ),
    "xlm-roberta": Family(
        model_type="xlm-roberta",
        architecture="XLMRobertaForSequenceClassification",
        tokenizer="xlm-roberta",
        models="bge-reranker-base, bge-reranker-large, bge-reranker-v2-m3, jina-reranker-v2",
        scoring="the tokenizer's pair form; dense layer and classifier",
        ids=pair_ids,
        shapes={
            name: shape | _ROBERTA_POSITIONS | {"max_position_embeddings": 1026} for name, shape in _BERT_SHAPES.items()
        },
    ),
    "camembert": Family(
        model_type="camembert",
        architecture="CamembertForSequenceClassification",
        tokenizer="xlm-roberta",
        models="crossencoder-camembert-base-mmarcoFR",
        scoring="the tokenizer's pair form; dense layer and classifier",
        ids=pair_ids,
        shapes={"three layers": _encoder(**_ROBERTA_POSITIONS)},
    ),
    "electra": Family(
        model_type="electra",
        architecture="ElectraForSequenceClassification",
        tokenizer="bert",
        models="ms-marco-electra-base",
        scoring="the tokenizer's pair form with token types; dense layer, gelu and classifier",
        ids=pair_ids,
        shapes={
            "embeddings as wide as the layers": _encoder(embedding_size=48, max_position_embeddings=512),
            "narrow embeddings, fp16 on disk": _encoder(
                embedding_size=16, num_hidden_layers=2, max_position_embeddings=512, dtype="float16"
            ),
        },
    ),
    "distilbert": Family(
        model_type="distilbert",
        architecture="DistilBertForSequenceClassification",
        tokenizer="distilbert",
        models="ruri-reranker-small, cross-encoder-mmarco-german-distilbert-base",
        scoring="the tokenizer's pair form; dense layer, relu and classifier",
        ids=pair_ids,
        shapes={"three layers": {"dim": 48, "n_layers": 3, "n_heads": 4, "hidden_dim": 80}},
    ),
    "mpnet": Family(
        model_type="mpnet",
        architecture="MPNetForSequenceClassification",
        tokenizer="roberta",
        models="cross-encoders trained on mpnet-base",
        scoring="the tokenizer's pair form; dense layer and classifier",
        ids=pair_ids,
        shapes={
            "three layers": _encoder(max_position_embeddings=514),
            "six heads": _encoder(num_attention_heads=6, num_hidden_layers=2, max_position_embeddings=514),
        },
    ),
    "nomic_bert": Family(
        model_type="nomic_bert",
        architecture="NomicBertForSequenceClassification",
        tokenizer="bert",
        models="cross-encoders trained on nomic-bert-2048",
        scoring="the tokenizer's pair form with token types; pooler and classifier",
        ids=pair_ids,
        shapes={
            "three layers": _encoder(max_position_embeddings=512),
            "keys and tensors as Nomic's own code calls them": _encoder(
                max_position_embeddings=512, num_hidden_layers=2, own_names=True
            ),
        },
        write=save_nomic,
    ),
    "jina_bert": Family(
        model_type="jina_bert",
        architecture="JinaBertModel",
        tokenizer="bert",
        models="jina-reranker-v1-turbo-en, jina-reranker-v1-tiny-en, as published (model_type bert)",
        scoring="the tokenizer's pair form with token types; pooler and classifier",
        ids=own_ids,
        shapes={
            "four heads": _encoder(max_position_embeddings=512),
            "six heads": _encoder(num_attention_heads=6, num_hidden_layers=2, max_position_embeddings=512),
        },
        write=save_jina_bert,
        oracle=jina_bert_logits,
    ),
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
                    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
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
                pooling="avg", temperature=0.2, max_position_embeddings=2048,
                rope_parameters={
                    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
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
                head_dim=32, max_position_embeddings=16384,
                rope_parameters={
                    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 1024,
                    "max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0,
                    "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
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
                head_dim=24, query_pre_attn_scalar=20, sliding_window=16, attn_logit_softcapping=2.0,
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
                head_dim=16, num_hidden_layers=6, query_pre_attn_scalar=16, sliding_window=16, pad_token_id=0,
                config_changes={"use_sep_token": False},
            ),
            "config of transformers 4, linear scaling of full layers": _decoder(
                head_dim=24, num_hidden_layers=3, sliding_window=8, pad_token_id=0,
                layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                rope_parameters={
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                },
                config_changes={
                    "use_sep_token": False, "rope_parameters": None, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
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
                pad_token_id=0, original_max_position_embeddings=1024, max_position_embeddings=4096, **_NO_SPECIALS,
                rope_parameters={
                    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.75,
                    "short_factor": [1.0, 1.1, 1.2, 1.5, 2.0, 3.0], "long_factor": [4.0] * 6,
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
                embedding_multiplier=12.0, attention_multiplier=0.1, residual_multiplier=0.22, logits_scaling=8.0,
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
                head_dim=32, tied=True,
                rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [8, 4, 4]},
            ),
            "untied": _decoder(
                head_dim=16, tied=False, num_hidden_layers=2,
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
                newer=True, num_hidden_layers=2, num_key_value_heads=1,
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
                head_dim=16, num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24, norm_topk_prob=True,
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
                num_hidden_layers=layers, classifier_pooling=pooling, pad_token_id=3, bos_token_id=1, eos_token_id=2,
                mask_token_id=4, max_position_embeddings=512,
            )
            for pooling, layers in (("late", 3), ("mean", 1), ("bos", 2))
        },
    ),
    "modernbert": Family(
        model_type="modernbert",
        architecture="ModernBertForSequenceClassification",
        tokenizer="modernbert",
        models="gte-reranker-modernbert-base",
        scoring="the tokenizer's pair form; CLS or mean, dense layer, norm and classifier",
        ids=pair_ids,
        shapes={
            "as published": _encoder(num_hidden_layers=4, local_attention=8, pad_token_id=3),
            "mean pooling, biases, one layer in two sees all": _encoder(
                num_hidden_layers=5, hidden_size=64, num_attention_heads=2, local_attention=16, pad_token_id=3,
                classifier_pooling="mean", classifier_bias=True, norm_bias=True, attention_bias=True, mlp_bias=True,
                global_attn_every_n_layers=2,
            ),
            "a window in the last layer, config of transformers 4": _encoder(
                num_hidden_layers=3, local_attention=4, pad_token_id=3, dtype="bfloat16",
                config_changes={
                    "layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 3,
                    "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
                },
            ),
        },
    ),
    "deberta-v2": Family(
        model_type="deberta-v2",
        architecture="DebertaV2ForSequenceClassification",
        tokenizer="deberta",
        models="mxbai-rerank-xsmall-v1, -base-v1, -large-v1",
        scoring="the tokenizer's pair form; pooler and classifier",
        ids=pair_ids,
        shapes={
            "as published": _encoder(**_DEBERTA, position_buckets=8, max_position_embeddings=512),
            "projections of their own, exact distances": _encoder(
                **(_DEBERTA | {"share_att_key": False, "norm_rel_ebd": "none"}),
                num_hidden_layers=2, max_position_embeddings=600,
            ),
            "only content with distance, positions and types": _encoder(
                **(_DEBERTA | {"pos_att_type": ["c2p"], "position_biased_input": True, "type_vocab_size": 2}),
                position_buckets=32, max_position_embeddings=512, dtype="float16",
            ),
        },
    ),
    "new": Family(
        model_type="new",
        architecture="GteForSequenceClassification",
        tokenizer="xlm-roberta",
        models="gte-multilingual-reranker-base, as published (NewForSequenceClassification)",
        scoring="the tokenizer's pair form; pooler and classifier",
        ids=pair_ids,
        write=save_new,
        shapes={
            "NTK scaling": _encoder(ntk_factor=8.0, rope_theta=20000.0, max_position_embeddings=1024),
            "no scaling, no types": _encoder(
                rope_theta=500000.0, type_vocab_size=0, num_hidden_layers=2, max_position_embeddings=1024,
            ),
        },
    ),
    "gte": Family(
        model_type="gte",
        architecture="GteForSequenceClassification",
        tokenizer="xlm-roberta",
        models="gte-multilingual-reranker-base, as transformers saves it",
        scoring="the tokenizer's pair form; pooler and classifier",
        ids=pair_ids,
        shapes={
            "three layers": _encoder(max_position_embeddings=1024),
            "six layers, fp16 on disk": _encoder(
                num_hidden_layers=6, hidden_size=96, num_attention_heads=3, dtype="float16",
                max_position_embeddings=1024,
            ),
        },
    ),
}  # fmt: skip
