"""Real checkpoints made on the spot: the published files' layout, names and dtypes with random weights.

``make_qwen3`` writes what the hub holds for a Qwen3-Reranker (original or converted), ``make_xlm_roberta`` and
``make_bert`` what it holds for a one-label cross-encoder. ``official_qwen3_scores`` is the oracle: transformers in fp32
with the model card's recipe, one unpadded pair at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tests.support.safetensors_writer import LazyTensor, write_checkpoint
from tests.support.tokenizer_files import (
    bert_tokenizer_json,
    qwen_tokenizer_config,
    qwen_tokenizer_json,
    xlm_roberta_tokenizer_json,
)

Dtype = Literal["float32", "bfloat16", "float16"]

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

QWEN3_OVERRIDES: dict[str, Any] = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
"""What users of vLLM pass for an original checkpoint; it must work and must not be needed."""


class _Random:
    """Weights by name: each tensor has its own stream, so shards and order do not change them."""

    def __init__(self, seed: int, std: float | None = None) -> None:
        self.seed, self.std = seed, std
        self.tensors: list[LazyTensor] = []

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *name.encode()])

    def _add(self, name: str, shape: tuple[int, ...], make: Callable[[np.random.Generator, int], np.ndarray]) -> None:
        self.tensors.append(LazyTensor(name, shape, lambda size: make(self._rng(name), size)))

    def matrix(self, name: str, out_features: int, in_features: int, scale: float = 1.0) -> None:
        std = np.float32(self.std or scale / in_features**0.5)
        self._add(name, (out_features, in_features), lambda rng, n: rng.standard_normal(n, dtype=np.float32) * std)

    def vector(self, name: str, size: int, mean: float = 0.0, std: float = 0.1) -> None:
        self._add(name, (size,), lambda rng, n: rng.normal(mean, std, n).astype(np.float32))

    def linear(self, name: str, out_features: int, in_features: int, *, bias: bool = True) -> None:
        self.matrix(f"{name}.weight", out_features, in_features)
        if bias:
            self.vector(f"{name}.bias", out_features)

    def layer_norm(self, name: str, size: int) -> None:
        self.vector(f"{name}.weight", size, mean=1.0)
        self.vector(f"{name}.bias", size)


def make_qwen3(
    path: str | Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    intermediate: int = 160,
    vocab_size: int | None = None,
    tokenizer_json: str | None = None,
    tied: bool = True,
    dtype: Dtype = "float32",
    shards: int = 1,
    seed: int = 0,
    max_position_embeddings: int = 40960,
    rope_theta: float = 1_000_000,
    attention_bias: bool = False,
    converted: bool = False,
    score_bias: bool = False,
    name: str | None = "Qwen/Qwen3-Reranker-0.6B",
    std: float | None = None,
    config_changes: dict[str, Any] | None = None,
) -> Path:
    """A Qwen3-Reranker checkpoint. ``vocab_size`` above the tokenizer's pads the embedding, as published ones do.

    ``converted``: ``Qwen3ForSequenceClassification`` with ``score.weight`` = lm_head[yes] - lm_head[no] scale.
    ``name``: its published name, in README.md, which is how an original one is recognised; None: a plain chat model.
    ``std``: of every matrix (transformers begins with 0.02); None: what keeps a vector's size, so that scores differ.
    """
    folder = _folder(path)
    tokenizer_json = tokenizer_json or qwen_tokenizer_json()
    _write_qwen_tokenizer(folder, tokenizer_json)
    vocab_size = vocab_size or _vocab_size(tokenizer_json)
    rng = _Random(seed, std)
    rng.matrix("model.embed_tokens.weight", vocab_size, hidden)
    for i in range(layers):
        block = f"model.layers.{i}"
        rng.vector(f"{block}.input_layernorm.weight", hidden, mean=1.0)
        for proj, rows in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            rng.linear(f"{block}.self_attn.{proj}_proj", rows * head_dim, hidden, bias=attention_bias)
        rng.linear(f"{block}.self_attn.o_proj", hidden, heads * head_dim, bias=attention_bias)
        for norm in ("q_norm", "k_norm"):  # above 1, so that attention is sharp enough to depend on the text
            rng.vector(f"{block}.self_attn.{norm}.weight", head_dim, mean=1.6)
        rng.vector(f"{block}.post_attention_layernorm.weight", hidden, mean=1.0)
        rng.matrix(f"{block}.mlp.gate_proj.weight", intermediate, hidden)
        rng.matrix(f"{block}.mlp.up_proj.weight", intermediate, hidden)
        rng.matrix(f"{block}.mlp.down_proj.weight", hidden, intermediate)
    rng.vector("model.norm.weight", hidden, mean=1.0)
    if converted:
        rng.matrix("score.weight", 1, hidden, scale=1.4)
        if score_bias:
            rng.vector("score.bias", 1, mean=0.3)
    elif not tied:
        rng.matrix("lm_head.weight", vocab_size, hidden)
    write_checkpoint(folder, rng.tensors, dtype, shards)

    config: dict[str, Any] = {
        "architectures": ["Qwen3ForSequenceClassification" if converted else "Qwen3ForCausalLM"],
        "attention_bias": attention_bias,
        "attention_dropout": 0.0,
        "bos_token_id": _token_id(tokenizer_json, "<|endoftext|>"),
        "eos_token_id": _token_id(tokenizer_json, "<|im_end|>"),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "max_position_embeddings": max_position_embeddings,
        "max_window_layers": layers,
        "model_type": "qwen3",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": vocab_size,
    }
    if converted:
        config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "use_sep_token": False}
        config["pad_token_id"] = config["bos_token_id"]
    _write_json(folder / "config.json", config | (config_changes or {}))
    if name:
        (folder / "README.md").write_text(f"---\nlibrary_name: transformers\n---\n# {name.rpartition('/')[2]}\n")
    return folder


def dims_0_6b(path: str | Path, *, seed: int = 0, **changes: Any) -> Path:
    """The shape, size and dtype of Qwen3-Reranker-0.6B: 596 M parameters, 1.2 GB, written in about ten seconds.

    The small tokenizer stays: only the embedding has the published 151,669 rows.
    """
    shape: dict[str, Any] = {
        "hidden": 1024, "layers": 28, "heads": 16, "kv_heads": 8, "head_dim": 128, "intermediate": 3072,
        "vocab_size": 151_669, "dtype": "bfloat16",
    }  # fmt: skip
    return make_qwen3(path, seed=seed, **(shape | changes))


def make_xlm_roberta(
    path: str | Path,
    *,
    hidden: int = 48,
    layers: int = 2,
    heads: int = 4,
    intermediate: int = 96,
    max_position_embeddings: int = 514,
    num_labels: int = 1,
    dtype: Dtype = "float32",
    seed: int = 0,
    config_changes: dict[str, Any] | None = None,
) -> Path:
    """A bge-reranker-like ``XLMRobertaForSequenceClassification``."""
    folder = _folder(path)
    tokenizer_json = xlm_roberta_tokenizer_json()
    (folder / "tokenizer.json").write_text(tokenizer_json)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>"}
    _write_json(
        folder / "tokenizer_config.json",
        names
        | {"cls_token": "<s>", "mask_token": "<mask>", "model_max_length": max_position_embeddings - 2}
        | {"tokenizer_class": "PreTrainedTokenizerFast"},
    )
    rng = _Random(seed)
    _add_bert_body(
        rng, "roberta", _vocab_size(tokenizer_json), max_position_embeddings, 1, hidden, layers, heads, intermediate
    )
    rng.linear("classifier.dense", hidden, hidden)
    rng.linear("classifier.out_proj", num_labels, hidden)
    write_checkpoint(folder, rng.tensors, dtype, 1)
    config = _bert_config(hidden, layers, heads, intermediate, max_position_embeddings, num_labels, dtype)
    config |= {
        "architectures": ["XLMRobertaForSequenceClassification"],
        "model_type": "xlm-roberta",
        "vocab_size": _vocab_size(tokenizer_json),
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-05,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    _write_json(folder / "config.json", config | (config_changes or {}))
    return folder


def make_bert(
    path: str | Path,
    *,
    hidden: int = 48,
    layers: int = 2,
    heads: int = 4,
    intermediate: int = 96,
    max_position_embeddings: int = 512,
    num_labels: int = 1,
    dtype: Dtype = "float32",
    seed: int = 0,
    config_changes: dict[str, Any] | None = None,
) -> Path:
    """An ms-marco-MiniLM-like ``BertForSequenceClassification``."""
    folder = _folder(path)
    tokenizer_json = bert_tokenizer_json()
    (folder / "tokenizer.json").write_text(tokenizer_json)
    names = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
    _write_json(
        folder / "tokenizer_config.json",
        names | {"mask_token": "[MASK]", "model_max_length": 512, "tokenizer_class": "BertTokenizer"},
    )
    rng = _Random(seed)
    _add_bert_body(
        rng, "bert", _vocab_size(tokenizer_json), max_position_embeddings, 2, hidden, layers, heads, intermediate
    )
    rng.linear("bert.pooler.dense", hidden, hidden)
    rng.linear("classifier", num_labels, hidden)
    write_checkpoint(folder, rng.tensors, dtype, 1)
    config = _bert_config(hidden, layers, heads, intermediate, max_position_embeddings, num_labels, dtype)
    config |= {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": _vocab_size(tokenizer_json),
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    _write_json(folder / "config.json", config | (config_changes or {}))
    return folder


def official_qwen3_ids(
    path: str | Path, query: str, documents: Sequence[str], instruction: str | None = None, max_length: int = 8192
) -> list[list[int]]:
    """Token ids by the model card's recipe: prefix, body and suffix tokenised separately, the body cut."""
    tokenizer = _hf_tokenizer(str(path))
    prefix = tokenizer.encode(PREFIX, add_special_tokens=False)
    suffix = tokenizer.encode(SUFFIX, add_special_tokens=False)
    bodies = [f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: {d}" for d in documents]
    encoded = tokenizer(
        bodies,
        padding=False,
        truncation="longest_first",
        return_attention_mask=False,
        max_length=max_length - len(prefix) - len(suffix),
    )
    return [prefix + ids + suffix for ids in encoded["input_ids"]]


def plain_ids(path: str | Path, prompt: str) -> list[int]:
    """A whole prompt, its special tokens included."""
    return list(_hf_tokenizer(str(path)).encode(prompt, add_special_tokens=False))


def official_qwen3_scores(
    path: str | Path, query: str, documents: Sequence[str], instruction: str | None = None, max_length: int = 8192
) -> list[float]:
    """Probabilities by the model card's recipe, in fp32. Reads the weights once a path: do not reuse a folder."""
    return official_scores_of_ids(path, official_qwen3_ids(path, query, documents, instruction, max_length))


def official_scores_of_ids(path: str | Path, prompts: Sequence[Sequence[int]]) -> list[float]:
    """softmax([l_no, l_yes])[yes] at the last position (or the converted head's sigmoid), pair by pair."""
    import torch

    tokenizer, model, bias = _hf_tokenizer(str(path)), _hf_model(str(path)), _score_bias(Path(path))
    labels = [tokenizer.convert_tokens_to_ids(t) for t in ("no", "yes")]
    scores = []
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices: more threads only wait for one another
    try:
        with torch.inference_mode():
            for ids in prompts:
                row = model(input_ids=torch.tensor([list(ids)])).logits
                if row.ndim == 2:
                    scores.append(torch.sigmoid(row[0, 0] + bias).item())
                else:
                    scores.append(torch.log_softmax(row[0, -1, labels], dim=0)[1].exp().item())
    finally:
        torch.set_num_threads(num_threads)
    return scores


def _score_bias(folder: Path) -> float:
    """transformers has no place for the bias of a converted checkpoint."""
    from safetensors import safe_open

    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            if "score.bias" in tensors.keys():  # noqa: SIM118 - not a mapping
                return float(tensors.get_tensor("score.bias").float()[0])
    return 0.0


@lru_cache(maxsize=4)
def _hf_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, padding_side="left")


@lru_cache(maxsize=2)
def _hf_model(path: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    architecture = json.loads((Path(path) / "config.json").read_text())["architectures"][0]
    auto = AutoModelForCausalLM if architecture.endswith("CausalLM") else AutoModelForSequenceClassification
    return auto.from_pretrained(path, dtype=torch.float32).eval()


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_qwen_tokenizer(folder: Path, tokenizer_json: str) -> None:
    (folder / "tokenizer.json").write_text(tokenizer_json)
    _write_json(folder / "tokenizer_config.json", qwen_tokenizer_config(tokenizer_json))


def _vocab_size(tokenizer_json: str) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_str(tokenizer_json).get_vocab_size())


def _token_id(tokenizer_json: str, token: str) -> int | None:
    return next((a["id"] for a in json.loads(tokenizer_json)["added_tokens"] if a["content"] == token), None)


def _bert_config(
    hidden: int, layers: int, heads: int, intermediate: int, positions: int, num_labels: int, dtype: Dtype
) -> dict[str, Any]:
    return {
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "id2label": {str(i): f"LABEL_{i}" for i in range(num_labels)},
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "label2id": {f"LABEL_{i}": i for i in range(num_labels)},
        "max_position_embeddings": positions,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "position_embedding_type": "absolute",
        "torch_dtype": dtype,
        "transformers_version": "4.38.1",
        "use_cache": True,
    }


def _add_bert_body(
    rng: _Random, root: str, vocab: int, positions: int, types: int, hidden: int, layers: int, heads: int, inner: int
) -> None:
    assert hidden % heads == 0
    for name, rows in (("word", vocab), ("position", positions), ("token_type", types)):
        rng.matrix(f"{root}.embeddings.{name}_embeddings.weight", rows, hidden)
    rng.layer_norm(f"{root}.embeddings.LayerNorm", hidden)
    for i in range(layers):
        block = f"{root}.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            rng.linear(f"{block}.attention.self.{part}", hidden, hidden)
        rng.linear(f"{block}.attention.output.dense", hidden, hidden)
        rng.layer_norm(f"{block}.attention.output.LayerNorm", hidden)
        rng.linear(f"{block}.intermediate.dense", inner, hidden)
        rng.linear(f"{block}.output.dense", hidden, inner)
        rng.layer_norm(f"{block}.output.LayerNorm", hidden)
