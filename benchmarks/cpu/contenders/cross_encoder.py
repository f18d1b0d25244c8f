"""sentence-transformers' CrossEncoder: texts in, its own tokenisation and padding included."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.cpu.contenders.base import Contender
from benchmarks.cpu.contenders.transformers_model import head_vector, load_model
from benchmarks.cpu.workloads import Workload


def convert(model: Path, target: Path) -> Path:
    """The checkpoint as ``Qwen3ForSequenceClassification`` with the one head row that the two labels come down to."""
    if (target / "model.safetensors").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    for file in model.glob("*.json"):
        shutil.copy(file, target / file.name)
    tensors = load_file(model / "model.safetensors")
    tensors["score.weight"] = head_vector(load_model(model), model)[None]
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, target / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": ["Qwen3ForSequenceClassification"], "pad_token_id": config["bos_token_id"]}
    config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "torch_dtype": "float32"}
    (target / "config.json").write_text(json.dumps(config))
    return target


class CrossEncoderModel(Contender):
    def __init__(self, model: Path, num_threads: int, work: Path) -> None:
        from sentence_transformers import CrossEncoder

        super().__init__(model, num_threads)
        torch.set_num_threads(num_threads)
        self.texts: dict[str, list[tuple[str, str]]] = {}
        self.encoder = CrossEncoder(str(convert(model, work / "cross_encoder")), device="cpu")

    def prepare(self, workload: Workload, prompts: Sequence[Sequence[int]]) -> None:
        """Whole prompts as the text of a pair: the template is part of what a caller of CrossEncoder writes."""
        decoded = self.encoder.tokenizer.batch_decode(list(prompts))
        cuts = [text.index("<Document>") for text in decoded]  # no token reaches over this place
        self.texts[workload.name] = [(t[:cut], t[cut:]) for t, cut in zip(decoded, cuts, strict=True)]

    def score(self, workload: Workload, prompts: Sequence[Sequence[int]], batch_size: int) -> list[float]:
        pairs = self.texts[workload.name]
        scores = self.encoder.predict(
            pairs, batch_size=batch_size, show_progress_bar=False, activation_fn=torch.nn.Identity()
        )
        return [float(score) for score in scores]
