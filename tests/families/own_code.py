"""Checkpoints as code beside the weights saves them, and the written formulas of networks that transformers lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tests.support.random_models import save_random
from tests.support.tokenizer_files import TOKENIZERS

NOMIC_KEYS = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions", "layer_norm_eps": "layer_norm_epsilon",
}  # fmt: skip
NOMIC_NAMES = {
    "layers.": "encoder.layers.", "embeddings.LayerNorm": "emb_ln", "self_attn.o_proj": "attn.out_proj",
    "up_proj": "fc11", "gate_proj": "fc12", "down_proj": "fc2", "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
}  # fmt: skip


def save_nomic(folder: Path, architecture: str, tokenizer: str, *, own_names: bool = False, **settings: Any) -> Path:
    """As transformers saves it, or, with ``own_names``, as Nomic's code does, with the twin of transformers beside."""
    if not own_names:
        return save_random(folder, architecture, tokenizer, **settings)
    twin = save_random(folder / "twin", architecture, tokenizer, **settings)
    config = json.loads((twin / "config.json").read_text())
    own = {NOMIC_KEYS[key]: config[key] for key in NOMIC_KEYS}
    own |= {key: config[key] for key in ("architectures", "model_type", "vocab_size", "type_vocab_size", "id2label")}
    own |= {
        "activation_function": "swiglu", "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "prenorm": False,
        "rotary_emb_interleaved": False, "qkv_proj_bias": False, "causal": False, "use_flash_attn": True,
        "auto_map": {"AutoModel": "modeling_hf_nomic_bert.NomicBertModel"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(own))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((twin / name).read_bytes())
    tensors = load_file(twin / "model.safetensors")
    renamed = {}
    for name, tensor in tensors.items():
        for theirs, nomics in NOMIC_NAMES.items():
            if nomics not in name:
                name = name.replace(theirs, nomics)
        renamed[name] = tensor
    for query in [name for name in renamed if name.endswith("q_proj.weight")]:
        parts = [renamed.pop(query.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        renamed[query.replace("self_attn.q_proj", "attn.Wqkv")] = torch.cat(parts)
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_jina_bert(
    folder: Path, architecture: str, tokenizer: str, *, name: str | None = None, **settings: Any
) -> Path:
    """Random weights under the names of the published jina-reranker-v1, whose config.json calls it a bert."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_json, tokenizer_config = TOKENIZERS[tokenizer]()
    (folder / "tokenizer.json").write_text(tokenizer_json)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    hidden, inner = settings["hidden_size"], settings["intermediate_size"]
    vocab = len(json.loads(tokenizer_json)["model"]["vocab"]) + 3
    config = settings | {
        "architectures": [architecture], "model_type": "bert", "vocab_size": vocab, "type_vocab_size": 2,
        "position_embedding_type": "alibi", "feed_forward_type": "geglu", "emb_pooler": "mean", "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "num_labels": 1,
        "auto_map": {
            "AutoConfig": "configuration_bert.JinaBertConfig",
            "AutoModelForSequenceClassification": "modeling_bert.JinaBertForSequenceClassification",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    generator, tensors = torch.Generator().manual_seed(0), dict[str, torch.Tensor]()

    def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = torch.randn(rows, columns, generator=generator) / columns**0.5
        if bias:
            tensors[f"{name}.bias"] = torch.randn(rows, generator=generator) * 0.1

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + torch.randn(hidden, generator=generator) * 0.1
        tensors[f"{name}.bias"] = torch.randn(hidden, generator=generator) * 0.1

    linear("bert.embeddings.word_embeddings", vocab, hidden, bias=False)
    linear("bert.embeddings.token_type_embeddings", 2, hidden, bias=False)
    norm("bert.embeddings.LayerNorm")
    for i in range(settings["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.mlp.gated_layers", 2 * inner, hidden, bias=False)
        linear(f"{layer}.mlp.wo", hidden, inner)
        norm(f"{layer}.mlp.layernorm")
    linear("bert.pooler.dense", hidden, hidden)
    linear("classifier", 1, hidden)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def alibi_slopes(num_heads: int) -> list[float]:
    """Of the paper's code: 2^(-8/n), its powers; every second of the next power of two's where n is none."""
    power = 2 ** math.floor(math.log2(num_heads))
    first = 2 ** (-(2 ** -(math.log2(power) - 3)))
    slopes = [first * first**i for i in range(power)]
    return slopes if power == num_heads else slopes + alibi_slopes(2 * power)[0::2][: num_heads - power]


def own_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    """By tokenizer.json alone."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(query, text).ids for text in documents]


@torch.inference_mode()
def jina_bert_logits(folder: Path, query: str, documents: Sequence[str]) -> list[float]:
    """JinaBertForSequenceClassification, one pair at a time."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    heads, size, inner = config["num_attention_heads"], config["hidden_size"], config["intermediate_size"]
    slopes = torch.tensor(alibi_slopes(heads))[:, None, None]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (size,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-12)

    def logit(text: str) -> float:
        found = tokenizer.encode(query, text)
        words, types = tensors["bert.embeddings.word_embeddings.weight"], "bert.embeddings.token_type_embeddings.weight"
        x = norm(
            words[torch.tensor(found.ids)] + tensors[types][torch.tensor(found.type_ids)], "bert.embeddings.LayerNorm"
        )
        places = torch.arange(len(x))
        bias = -slopes * (places[:, None] - places).abs()
        for i in range(config["num_hidden_layers"]):
            layer = f"bert.encoder.layer.{i}"
            q, k, v = (
                linear(x, f"{layer}.attention.self.{part}").view(len(x), heads, -1).transpose(0, 1)
                for part in ("query", "key", "value")
            )
            scores = q @ k.transpose(1, 2) / math.sqrt(size // heads) + bias
            attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), size)
            x = norm(linear(attended, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output.LayerNorm")
            both = linear(x, f"{layer}.mlp.gated_layers")
            x = norm(linear(F.gelu(both[:, :inner]) * both[:, inner:], f"{layer}.mlp.wo") + x, f"{layer}.mlp.layernorm")
        return linear(torch.tanh(linear(x[0], "bert.pooler.dense")), "classifier").item()

    return [logit(text) for text in documents]


def save_bidirectional(
    folder: Path, architecture: str, tokenizer: str, *, pooling: str, temperature: float, **more: Any
) -> Path:
    """NVIDIA's llama_bidirec, and beside it the causal twin that transformers reads (folder ``twin``)."""
    more.pop("name", None)
    twin = save_random(folder / "twin", "LlamaForSequenceClassification", tokenizer, pad_token_id=1957, **more)
    config = json.loads((twin / "config.json").read_text())
    own = {
        "architectures": [architecture], "model_type": "llama_bidirec", "pooling": pooling, "temperature": temperature,
        "auto_map": {"AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | own))
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_bytes((twin / name).read_bytes())
    return folder


def nemotron_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    """The published prompt, with what the tokenizer puts around a text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(f"question:{query} \n \n passage:{text}").ids for text in documents]


@torch.inference_mode()
def bidirectional_logits(folder: Path, query: str, documents: Sequence[str]) -> list[float]:
    """Llama without its causal mask; pooling, score and temperature by hand."""
    import transformers

    config = json.loads((folder / "config.json").read_text())
    model = transformers.LlamaForSequenceClassification.from_pretrained(folder / "twin", dtype=torch.float32).eval()
    model.config.is_causal = False
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    pools = {"avg": lambda h: h.mean(0), "cls": lambda h: h[0], "last": lambda h: h[-1]}
    logits = []
    for ids in nemotron_ids(folder, query, documents):
        hidden = model.model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        logits.append(model.score(pools[config["pooling"]](hidden)).item() / config["temperature"])
    return logits


def save_qwen3_vl(
    folder: Path,
    architecture: str,
    tokenizer: str,
    *,
    name: str | None,
    tied: bool,
    vision: dict[str, Any] | None = None,
    **text: Any,
) -> Path:
    """A whole model for pictures and texts, with a small tower for the pictures, of which ``vision`` is changed."""
    import transformers

    from tests.support.random_models import randomise

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_json, tokenizer_config = TOKENIZERS[tokenizer]()
    (folder / "tokenizer.json").write_text(tokenizer_json)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    vocab = max(json.loads(tokenizer_json)["model"]["vocab"].values()) + 64
    tower = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "out_hidden_size": text["hidden_size"],
        "patch_size": 4, "num_position_embeddings": 36, "deepstack_visual_indexes": [0], **(vision or {}),
    }  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config={"vocab_size": vocab, **text}, vision_config=tower, tie_word_embeddings=tied
    )
    model = getattr(transformers, architecture)(config)
    randomise(model, 0)
    model.tie_weights()
    model.save_pretrained(folder)
    (folder / "README.md").write_text(f"# {name}\n")
    return folder


def qwen3_vl_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    """The published prompt of Qwen3-VL-Reranker for two texts, tokenised at once; an empty one is NULL."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        "<Instruct>: Given a search query, retrieve relevant candidates that answer the query."
        "<Query>:{q}\n<Document>:{d}<|im_end|>\n<|im_start|>assistant\n"
    )
    texts = [prompt.replace("{q}", query or "NULL").replace("{d}", text or "NULL") for text in documents]
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
