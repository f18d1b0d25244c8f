"""LoRA adapters in peft's layout, and the checkpoint that merging one into its base gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def make_adapter(
    folder: Path,
    base: Path,
    modules: Sequence[str],
    *,
    rank: int = 4,
    alpha: float = 8,
    whole: Sequence[str] = (),
    seed: int = 0,
    tensors_changes: dict[str, torch.Tensor] | None = None,
    **config: Any,
) -> Path:
    """Factors for every linear tensor whose name ends with one of ``modules``; new values for tensors in ``whole``."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if name != module and module.endswith(tuple(modules)):
            out_features, in_features = tensor.shape
            down = torch.randn(rank, in_features, generator=generator) / in_features**0.5
            tensors[f"base_model.model.{module}.lora_A.weight"] = down
            tensors[f"base_model.model.{module}.lora_B.weight"] = (
                torch.randn(out_features, rank, generator=generator) * 0.3
            )
        if name in whole:
            tensors[f"base_model.model.{name}"] = torch.randn(tensor.shape, generator=generator) * 0.3
    folder.mkdir(parents=True)
    save_file(tensors | (tensors_changes or {}), folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "use_dora": False} | config
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def merge(folder: Path, base: Path, adapter: Path) -> Path:
    """A checkpoint with the adapter's products added to its weights, in fp32."""
    shutil.copytree(base, folder)
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    tensors, changes = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for stored, change in changes.items():
        name = stored.removeprefix("base_model.model.")
        if name.endswith(".lora_A.weight"):
            up = changes[stored.replace("lora_A", "lora_B")]
            target = name.replace(".lora_A", "")
            tensors[target] = (tensors[target].float() + scale * up @ change).contiguous()
        elif not name.endswith(".lora_B.weight"):
            tensors[name] = change
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder
