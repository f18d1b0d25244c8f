"""A small ``Qwen3ForCausalLM`` with random weights, written in the published layout of a Qwen3-Reranker.

It ranks nothing; it shows how such a checkpoint is converted and computed, on the spot and without a download. The
files are those of the hub: bfloat16 tensors by their published names, tied embeddings, a tokenizer in Qwen2's layout.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INTERMEDIATE = 128, 4, 4, 2, 32, 256
ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
THINKING = ADDED[3:]
"""Ordinary tokens in the published tokenizer."""
README = """---
library_name: transformers
pipeline_tag: text-ranking
---

# Qwen3-Reranker-0.6B

No such model: random weights in its layout, which `make demo` wrote.
"""
"""The heading is how the published files say what they are: the engine takes head and prompt from it."""
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_random_reranker(folder: Path, texts: Sequence[str], *, seed: int = 0) -> Path:
    """Writes a checkpoint with random weights; its tokenizer learns its words from ``texts``."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer(texts)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = _config(tokenizer)
    files: dict[str, Any] = {
        "config.json": config,
        "generation_config.json": {name: config[name] for name in ("bos_token_id", "eos_token_id")},
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": config["max_position_embeddings"],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")
    _write_safetensors(folder / "model.safetensors", _tensors(config["vocab_size"], np.random.default_rng(seed)))
    return folder


def _tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE as Qwen2 has it; "yes" and "no" are single tokens, since the score is read at them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated", invert=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(**byte_level)])
    tokenizer.post_processor = processors.ByteLevel(**byte_level)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator([*texts, *["yes\nno\n"] * 50], trainer)
    for text in ADDED:
        special = text not in THINKING
        token = AddedToken(text, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    return tokenizer


def _config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "intermediate_size": INTERMEDIATE,
        "hidden_act": "silu",
        "attention_bias": False,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
    }


def _tensors(vocab_size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """float32, by published name. Matrices keep a vector's size, so that scores differ from pair to pair."""

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)

    tensors = {"model.embed_tokens.weight": matrix(vocab_size, HIDDEN)}
    for index in range(LAYERS):
        layer = f"model.layers.{index}"
        for name, rows in (("q_proj", HEADS), ("k_proj", KV_HEADS), ("v_proj", KV_HEADS)):
            tensors[f"{layer}.self_attn.{name}.weight"] = matrix(rows * HEAD_DIM, HIDDEN)
        tensors[f"{layer}.self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        for name, rows, columns in (
            ("gate_proj", INTERMEDIATE, HIDDEN),
            ("up_proj", INTERMEDIATE, HIDDEN),
            ("down_proj", HIDDEN, INTERMEDIATE),
        ):
            tensors[f"{layer}.mlp.{name}.weight"] = matrix(rows, columns)
        for name, size in (("input_layernorm", HIDDEN), ("post_attention_layernorm", HIDDEN)):
            tensors[f"{layer}.{name}.weight"] = np.ones(size, np.float32)
        for name in ("q_norm", "k_norm"):  # above one: attention is then sharp enough to depend on the text
            tensors[f"{layer}.self_attn.{name}.weight"] = np.full(HEAD_DIM, 1.6, np.float32)
    tensors["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    return tensors


def _write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The format's own layout: the length of the header, the header, the bytes; float32 cut to bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    start = 0
    for name, tensor in tensors.items():
        data = (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, start + len(data)]}
        parts.append(data)
        start += len(data)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(encoded)), encoded, *parts]))
