"""Families of encoders, in the order of docs/models.md: those before its decoders, and those behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.families.family import Family
from tests.families.oracles import pair_ids
from tests.families.own_code import jina_bert_logits, own_ids, save_jina_bert, save_nomic
from tests.support.random_models import save_random


def _encoder(**changes: Any) -> dict[str, Any]:
    usual = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
    return usual | changes


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

ENCODERS: dict[str, Family] = {
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
}

LATER_ENCODERS: dict[str, Family] = {
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
                num_hidden_layers=5,
                hidden_size=64,
                num_attention_heads=2,
                local_attention=16,
                pad_token_id=3,
                classifier_pooling="mean",
                classifier_bias=True,
                norm_bias=True,
                attention_bias=True,
                mlp_bias=True,
                global_attn_every_n_layers=2,
            ),
            "a window in the last layer, config of transformers 4": _encoder(
                num_hidden_layers=3,
                local_attention=4,
                pad_token_id=3,
                dtype="bfloat16",
                config_changes={
                    "layer_types": None,
                    "rope_parameters": None,
                    "global_attn_every_n_layers": 3,
                    "global_rope_theta": 160000.0,
                    "local_rope_theta": 10000.0,
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
                num_hidden_layers=2,
                max_position_embeddings=600,
            ),
            "only content with distance, positions and types": _encoder(
                **(_DEBERTA | {"pos_att_type": ["c2p"], "position_biased_input": True, "type_vocab_size": 2}),
                position_buckets=32,
                max_position_embeddings=512,
                dtype="float16",
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
                rope_theta=500000.0,
                type_vocab_size=0,
                num_hidden_layers=2,
                max_position_embeddings=1024,
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
                num_hidden_layers=6,
                hidden_size=96,
                num_attention_heads=3,
                dtype="float16",
                max_position_embeddings=1024,
            ),
        },
    ),
}
