"""A small Qwen3-VL with its tower, pictures for it, and what transformers says about the same tokens."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer

from tests.families.own_code import save_qwen3_vl

MARKS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
AREAS = {"shortest_edge": 16 * 8**2, "longest_edge": 60 * 8**2}
"""16 to 60 rows a picture, each of 8 x 8 pixels."""
Side = tuple[Sequence[Image.Image], str]
"""Pictures and a text."""
_PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: Given a search query, retrieve relevant candidates that answer the query."
    "<Query>:{q}\n<Document>:{d}<|im_end|>\n<|im_start|>assistant\n"
)


def make_qwen3_vl(folder: Path) -> Path:
    """Three text layers, two of which get features from within the tower; named as published."""
    save_qwen3_vl(
        folder,
        "Qwen3VLForConditionalGeneration",
        "qwen",
        name="Qwen3-VL-Reranker-2B",
        tied=True,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [8, 4, 4]},
        vision={"depth": 3, "deepstack_visual_indexes": [0, 2], "hidden_size": 32, "num_heads": 4},
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(list(MARKS))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text())
    names = ("vision_start_token_id", "image_token_id", "vision_end_token_id")
    config |= {name: tokenizer.token_to_id(mark) for name, mark in zip(names, MARKS, strict=True)}
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"size": AREAS, "patch_size": 4, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def picture(height: int, width: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Coloured noise, coarse enough to survive scaling."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST).convert(mode)


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def data_url(image: Image.Image | bytes, kind: str = "png") -> str:
    """``data:image/png;base64,...``."""
    data = image if isinstance(image, bytes) else encoded(image, kind)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Reference:
    """transformers' own model, and its own picture processor, on one unpadded pair at a time."""

    def __init__(self, folder: Path) -> None:
        import transformers
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._model: Any = transformers.Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self._processor: Any = Qwen2VLImageProcessorPil.from_pretrained(folder)

    @cached_property
    def _answers(self) -> list[int]:
        return [self._tokenizer.token_to_id(word) for word in ("no", "yes")]

    @torch.inference_mode()
    def score(self, query: Side, document: Side) -> float:
        """The probability of yes."""
        images = [*query[0], *document[0]]
        seen = self._processor(images, return_tensors="pt") if images else {}
        counts = iter([int(grid.prod()) // 4 for grid in seen.get("image_grid_thw", ())])
        sides = [
            "".join(f"{MARKS[0]}{MARKS[1] * next(counts)}{MARKS[2]}" for _ in side[0]) + side[1]
            for side in (query, document)
        ]
        prompt = _PROMPT.replace("{q}", sides[0] or "NULL").replace("{d}", sides[1] or "NULL")
        ids = torch.tensor([self._tokenizer.encode(prompt, add_special_tokens=False).ids])
        if images:
            seen["mm_token_type_ids"] = (ids == self._tokenizer.token_to_id(MARKS[1])).int()
        logits = self._model(input_ids=ids, attention_mask=torch.ones_like(ids), **seen).logits[0, -1].double()
        return float(torch.softmax(logits[self._answers], 0)[1])
