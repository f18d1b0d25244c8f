"""GGUF files of small models, written with the package ``gguf`` as llama.cpp's converter writes them, and plain twins.

Types that the package cannot quantise to (the K types, IQ4) are written as random blocks with sane scales; the twin
gets what the package reads from them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

RANDOM_BLOCKS = {
    "Q2_K": (84, 256, (80, 82)), "Q3_K": (110, 256, (108,)), "Q4_K": (144, 256, (0, 2)), "Q5_K": (176, 256, (0, 2)),
    "Q6_K": (210, 256, (208,)), "IQ4_NL": (18, 32, (0,)), "IQ4_XS": (136, 256, (0,)),
}  # fmt: skip
"""Type -> bytes and values of a block, and where its fp16 scales are."""


def random_blocks(kind: str, num_rows: int, num_columns: int, seed: int) -> np.ndarray:
    num_bytes, values, scales = RANDOM_BLOCKS[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (num_rows, num_columns // values, num_bytes), dtype=np.uint8)
    size = {"Q3_K": 2e-3, "Q6_K": 3e-5, "IQ4_XS": 3e-5, "IQ4_NL": 1e-3}.get(kind, 1.5e-4)
    for place in scales:
        drawn = (rng.uniform(0.5, 1.5, raw.shape[:2]) * size * (8 if place in (2, 82) else 1)).astype(np.float16)
        raw[..., place : place + 2] = drawn[..., None].view(np.uint8)
    return raw.reshape(num_rows, -1)


def write_gguf(
    folder: Path,
    kind_of: Callable[[str], str],
    *,
    file: str = "model-Q4_K_M.gguf",
    head: str = "",
    with_twin: bool = True,
    **metadata: Any,
) -> tuple[Path, Path]:
    """From a checkpoint in ``folder`` the GGUF file beside it and a plain twin of what it holds.

    ``kind_of``: the type for a tensor's name in GGUF. ``head``: "cls" writes the yes/no rows instead of the lm_head.
    ``with_twin`` False: only the file.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = _Writer(config, with_twin=with_twin)
    _add_metadata(writer.out, config, metadata)
    _add_tokenizer(writer.out, folder)
    twin = folder.with_name(f"{folder.name}-wide")
    if with_twin:
        shutil.copytree(folder, twin)
    wide = {}
    stored = load_file(folder / "model.safetensors")
    if head == "cls":
        tokens = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
        rows = stored.get("lm_head.weight", stored["model.embed_tokens.weight"])
        writer.add("cls.output.weight", rows[[tokens["yes"], tokens["no"]]], "F32")
        writer.out.add_array(f"{writer.architecture}.classifier.output_labels", ["yes", "no"])
    for name, tensor in stored.items():
        gguf_name = writer.name(name)
        wide[name] = tensor
        if gguf_name is not None and not (head == "cls" and gguf_name == "output.weight"):
            wide[name] = writer.add(gguf_name, tensor, kind_of(gguf_name) if tensor.ndim == 2 else "F32")
    if with_twin:
        whole = {name: value.contiguous() for name, value in wide.items()}
        save_file(whole, twin / "model.safetensors", {"format": "pt"})
    path = folder.with_name(file)
    writer.save(path)
    return path, twin


class _Writer:
    def __init__(self, config: dict[str, Any], *, with_twin: bool = True) -> None:
        self.with_twin = with_twin
        self.config = config
        self.architecture = {"xlm-roberta": "bert", "mistral": "llama"}.get(config["model_type"], config["model_type"])
        self.out = gguf.GGUFWriter(None, self.architecture)
        architecture = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == self.architecture)
        self.names = gguf.get_tensor_name_map(architecture, config["num_hidden_layers"])

    def name(self, stored: str) -> str | None:
        stored = stored.removeprefix("roberta.").removeprefix("bert.")
        found = self.names.get_name(stored, try_suffixes=(".weight", ".bias"))
        return {"classifier.out_proj.weight": "cls.output.weight", "classifier.out_proj.bias": "cls.output.bias"}.get(
            stored, found
        )

    def add(self, name: str, tensor: torch.Tensor, kind: str) -> torch.Tensor:
        """Returns the numbers as they stand for the original tensor."""
        values = self._converted(name, tensor.float()).numpy()
        type_ = gguf.GGMLQuantizationType[kind]
        if kind in RANDOM_BLOCKS:
            raw = random_blocks(kind, *values.shape, seed=len(name))
        elif kind in ("F32", "F16"):
            raw = values.astype({"F32": np.float32, "F16": np.float16}[kind])
        else:
            raw = gguf.quants.quantize(values, type_)
        self.out.add_tensor(name, raw, raw_dtype=type_)
        if not self.with_twin:
            return tensor
        wide = torch.from_numpy(np.array(gguf.quants.dequantize(raw, type_), dtype=np.float32)).view(values.shape)
        return self._undone(name, wide, tensor)

    def _converted(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if self.architecture == "llama" and ("attn_q." in name or "attn_k." in name):
            return tensor.unflatten(0, (self._heads(name), 2, -1)).transpose(1, 2).flatten(0, 2)
        if self.architecture == "gemma" and name.endswith("norm.weight"):
            return tensor + 1
        if self.config["model_type"] == "xlm-roberta" and name == "position_embd.weight":
            return tensor[2:]
        return tensor

    def _undone(self, name: str, wide: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        if self.architecture == "llama" and ("attn_q." in name or "attn_k." in name):
            return wide.unflatten(0, (self._heads(name), -1, 2)).transpose(1, 2).flatten(0, 2)
        if self.architecture == "gemma" and name.endswith("norm.weight"):
            return wide - 1
        if len(wide) != len(tensor):
            return torch.cat([tensor[:2], wide])
        return wide

    def _heads(self, name: str) -> int:
        return self.config["num_attention_heads" if "attn_q." in name else "num_key_value_heads"]

    def save(self, path: Path) -> None:
        self.out.write_header_to_file(path)
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()


def _add_metadata(out: gguf.GGUFWriter, config: dict[str, Any], more: dict[str, Any]) -> None:
    out.add_block_count(config["num_hidden_layers"])
    out.add_context_length(config["max_position_embeddings"] - 2 * (config["model_type"] == "xlm-roberta"))
    out.add_embedding_length(config["hidden_size"])
    out.add_feed_forward_length(config["intermediate_size"])
    out.add_head_count(config["num_attention_heads"])
    if "rms_norm_eps" in config:
        out.add_head_count_kv(config["num_key_value_heads"])
        out.add_layer_norm_rms_eps(config["rms_norm_eps"])
        rope = config.get("rope_parameters") or {}
        out.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        out.add_key_length(head)
        out.add_value_length(head)
    else:
        out.add_layer_norm_eps(config["layer_norm_eps"])
        out.add_causal_attention(False)
    for key, value in more.items():
        add = out.add_uint32 if isinstance(value, int) else out.add_string
        add(key.replace("__", "."), value)


def _add_tokenizer(out: gguf.GGUFWriter, folder: Path) -> None:
    stored = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    model, added = stored["model"], {token["id"]: token for token in stored["added_tokens"]}
    kind = {"BPE": "gpt2", "WordPiece": "bert", "Unigram": "t5"}[model["type"]]
    if model.get("byte_fallback"):
        kind = "llama"
    pieces = model["vocab"] if kind != "t5" else {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    by_id = {i: token for token, i in pieces.items()} | {i: token["content"] for i, token in added.items()}
    tokens = [by_id.get(i, f"[PAD{i}]") for i in range(max(by_id) + 1)]
    types = [(3 if added[i]["special"] else 4) if i in added else 1 for i in range(len(tokens))]
    if kind == "llama":
        types = [6 if t.startswith("<0x") and t.endswith(">") else k for t, k in zip(tokens, types, strict=True)]
    out.add_tokenizer_model(kind)
    if kind == "gpt2":
        out.add_tokenizer_pre("llama-bpe" if "<|begin_of_text|>" in tokens else "qwen2")
        out.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]])
    if kind == "bert":
        tokens = [
            t if k == 3 else t.removeprefix("##") if t.startswith("##") else f"\u2581{t}"
            for t, k in zip(tokens, types, strict=True)
        ]
    if kind == "t5":
        out.add_token_scores([score for _, score in model["vocab"]])
        out.add_add_space_prefix(True)
    if kind == "llama":
        ranks = {"".join(pair): -float(i) for i, pair in enumerate(model["merges"])}
        out.add_token_scores([ranks.get(token, -1e6) for token in tokens])
        out.add_add_space_prefix(False)
    out.add_token_list(tokens)
    out.add_token_types(types)
    if kind in ("gpt2", "llama") and any(name in json.dumps(stored["post_processor"]) for name in ("bos", "begin_of")):
        out.add_add_bos_token(True)
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
    ids = {token: i for i, token in by_id.items()}
    for short, name in names.items():
        token = settings.get(f"{short}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token in ids:
            out.add_uint32(f"tokenizer.ggml.{name}_token_id", ids[token])
    if "cls_token" in settings and kind == "bert":
        out.add_uint32("tokenizer.ggml.cls_token_id", ids[settings["cls_token"]])
