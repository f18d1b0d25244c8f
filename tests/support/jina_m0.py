"""A small jina-reranker-m0 as published, and what transformers' Qwen2-VL with its head says about the same tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.support.pictures import AREAS, MARKS, Side
from tests.support.random_models import randomise
from tests.support.tokenizer_files import TOKENIZERS

END = 100
"""The id behind every prompt, where a pair is read."""
MEAN = 2.65
COLOURS = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_TOWER = {"depth": 2, "embed_dim": 32, "num_heads": 4, "mlp_ratio": 2, "patch_size": 4}


def save_jina_m0(
    folder: Path,
    architecture: str,
    tokenizer: str,
    *,
    name: str | None = None,
    newer: bool = False,
    vision: dict[str, Any] | None = None,
    **text: Any,
) -> Path:
    """With the names and keys of its authors' version of transformers, or of a ``newer`` one; what transformers reads
    stands in the folder ``twin``."""
    import transformers

    twin = folder / "twin"
    twin.mkdir(parents=True, exist_ok=True)
    tokenizer_json, tokenizer_config = TOKENIZERS[tokenizer]()
    (twin / "tokenizer.json").write_text(tokenizer_json)
    (twin / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    marked = Tokenizer.from_str(tokenizer_json)
    marked.add_special_tokens(list(MARKS))
    for place in (folder, twin):
        marked.save(str(place / "tokenizer.json"))
        (place / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    names = ("vision_start_token_id", "image_token_id", "vision_end_token_id")
    ids = {key: marked.token_to_id(mark) for key, mark in zip(names, MARKS, strict=True)}
    tower = {**_TOWER, "hidden_size": text["hidden_size"], **(vision or {})}
    rope = text.pop("rope_parameters")
    config = transformers.Qwen2VLConfig(
        text_config={"vocab_size": marked.get_vocab_size() + 64, "rope_parameters": rope, **text},
        vision_config=tower,
        tie_word_embeddings=True,
        **ids,
    )
    model = transformers.Qwen2VLForConditionalGeneration(config)
    randomise(model, 0)
    model.tie_weights()
    model.save_pretrained(twin)
    width = text["hidden_size"]
    drawn = torch.Generator().manual_seed(1)
    head = {
        f"score.{index}.{kind}": 0.3 * torch.randn(shape, generator=drawn)
        for index, kind, shape in (
            (0, "weight", (width, width)),
            (0, "bias", (width,)),
            (2, "weight", (1, width)),
            (2, "bias", (1,)),
        )
    }
    tensors = load_file(twin / "model.safetensors") | head
    saved = json.loads((twin / "config.json").read_text())
    if not newer:
        tensors = {_older(key): tensor for key, tensor in tensors.items()}
        inner = saved.pop("text_config")
        saved = {**inner, **saved, "rope_theta": rope["rope_theta"]}
        del saved["rope_parameters"], saved["layer_types"]
        saved["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
    saved["architectures"], saved["auto_map"] = [architecture], {"AutoModel": f"modeling.{architecture}"}
    (folder / "config.json").write_text(json.dumps(saved))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    processor = {"size": AREAS, "patch_size": 4, "merge_size": 2, **COLOURS}
    for place in (folder, twin):
        (place / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _older(name: str) -> str:
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def jina_m0_ids(folder: Path, query: str, documents: Sequence[str]) -> list[list[int]]:
    """The published prompt for texts, tokenised at once, and the id behind it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompts = [f"**Document**:\n{text}\n**Query**:\n{query}" for text in documents]
    return [[*tokenizer.encode(prompt, add_special_tokens=False).ids, END] for prompt in prompts]


class Reference:
    """transformers' own network and picture processor, one unpadded pair at a time, and the head by hand."""

    def __init__(self, folder: Path) -> None:
        import transformers
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self._folder = folder
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model: Any = transformers.Qwen2VLModel.from_pretrained(folder / "twin", dtype=torch.float32).eval()
        self._processor: Any = Qwen2VLImageProcessorPil.from_pretrained(folder)
        self._head = {k: v for k, v in load_file(folder / "model.safetensors").items() if k.startswith("score.")}

    @torch.inference_mode()
    def logit(self, query: Side, document: Side) -> float:
        """The head's answer, of which its authors' ``compute_score`` takes the sigmoid."""
        images = [*document[0], *query[0]]
        seen = self._processor(images, return_tensors="pt") if images else {}
        counts = iter([int(grid.prod()) // 4 for grid in seen.get("image_grid_thw", ())])
        marked = [
            "".join(f"{MARKS[0]}{MARKS[1] * next(counts)}{MARKS[2]}" for _ in side[0]) + side[1]
            for side in (document, query)
        ]
        ids = torch.tensor(jina_m0_ids(self._folder, marked[1], [marked[0]]))
        if images:
            seen["mm_token_type_ids"] = (ids == self._tokenizer.token_to_id(MARKS[1])).int()
        last = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), **seen).last_hidden_state[0, -1]
        inner = torch.relu(F.linear(last, self._head["score.0.weight"], self._head["score.0.bias"]))
        return float(F.linear(inner, self._head["score.2.weight"], self._head["score.2.bias"])) - MEAN

    def score(self, query: Side, document: Side) -> float:
        """The score."""
        return 1 / (1 + math.exp(-self.logit(query, document)))


def jina_m0_logits(folder: Path, query: str, documents: Sequence[str]) -> list[float]:
    """Of texts."""
    reference = Reference(folder)
    return [reference.logit(([], query), ([], text)) for text in documents]
