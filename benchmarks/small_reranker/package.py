"""Writes the folder that the wheel carries: the weights in float16, and every file that says what the model is."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

# Beside the weights; what they say is the published model's, but for what ``package`` changes.
COPIED = ("tokenizer_config.json", "special_tokens_map.json", "modules.json", "config_sentence_transformers.json")
POOLING = Path("1_Pooling") / "config.json"
MAX_TOKENS = 512
NOT_STORED = "embeddings.position_ids"  # the numbers 0 to 511


def package(published: Path, output: Path, max_tokens: int, trained: dict[str, torch.Tensor] | None = None) -> None:
    """``trained`` replaces tensors of the published model; README, LICENSE and NOTICE in ``output`` stay."""
    (output / POOLING).parent.mkdir(parents=True, exist_ok=True)
    for name in (*COPIED, str(POOLING)):
        shutil.copyfile(published / name, output / name)
    tensors = load_file(published / "model.safetensors") | (trained or {})
    tensors.pop(NOT_STORED, None)
    save_file(
        {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()},
        output / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = json.loads((published / "config.json").read_text())
    config["_name_or_path"] = "sentence-transformers/all-MiniLM-L6-v2"
    _write(output / "config.json", {**config, "dtype": "float16"})
    _write(output / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    tokenizer = json.loads((published / "tokenizer.json").read_text(encoding="utf-8"))
    # Cutting and padding are the engine's business, and 128 is not the model's length.
    tokenizer |= {"truncation": None, "padding": None}
    (output / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n", encoding="utf-8")


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
