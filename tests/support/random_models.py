"""Random checkpoints of any family, made and saved by transformers itself: names, layout and config are its own.

Weights are drawn so that scores differ between pairs; the usual small initial weights would hide most mistakes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.support.tokenizer_files import TOKENIZERS

NORMS = ("norm", "ln", "layernorm")


def save_random(
    folder: str | Path,
    architecture: str,
    tokenizer: str,
    *,
    name: str | None = None,
    seed: int = 0,
    dtype: str = "float32",
    config_changes: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """``architecture`` with random weights and the tokenizer of this name; ``config`` goes to transformers' config.

    ``name``: its published name, in README.md. ``config_changes`` are made in config.json after saving.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_json, tokenizer_config = TOKENIZERS[tokenizer]()
    (folder / "tokenizer.json").write_text(tokenizer_json)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    model_class = getattr(transformers, architecture)
    if "ForSequenceClassification" in architecture:
        config = {"num_labels": 1, **config}
    settings = model_class.config_class(vocab_size=_vocab_size(tokenizer_json), **config)
    model = model_class(settings)
    randomise(model, seed)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if config_changes:
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stored | config_changes))
    if name:
        (folder / "README.md").write_text(f"# {name}\n")
    return folder


def randomise(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                values /= parameter.shape[-1] ** 0.5
            elif name.endswith("weight") and parameter.mean() > 0.5:
                values = 1 + 0.1 * values
            else:
                values *= 0.1
            parameter.copy_(values)


def _vocab_size(tokenizer_json: str) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_str(tokenizer_json).get_vocab_size()) + 3  # published embeddings are padded
