"""Random late-interaction checkpoints in their three layouts. sentence-transformers reads each and is the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.support.random_models import save_random

SIZES = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80}
OUT = 24


def _projection(rows: int = OUT, columns: int = 48) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) / columns**0.5


def make_native(
    folder: Path, architecture: str, tokenizer: str, *, prompts: dict[str, str], similarity: str = "maxsim",
    skiplist: Sequence[str] = (), tasks: Sequence[str] = ("document",), **knobs: Any,
) -> Path:  # fmt: skip
    """As sentence-transformers 6 saves it. ``knobs``: ``query_length``, ``document_length``, ``query_expansion``."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from sentence_transformers.sentence_transformer.modules import Normalize

    body = save_random(folder / "body", architecture, tokenizer, **SIZES, **_pads(architecture))
    modules = [
        Transformer(str(body), **knobs),
        Dense(
            48, OUT, bias=False, activation_function=torch.nn.Identity(), init_weight=_projection(),
            module_input_name="token_embeddings",
        ),
        MultiVectorMask(list(skiplist), skiplist_tasks=list(tasks)),
        Normalize(module_input_name="token_embeddings"),
    ]  # fmt: skip
    model = MultiVectorEncoder(modules=modules, prompts=prompts, similarity_fn_name=similarity, device="cpu")
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


def make_pylate(folder: Path, architecture: str, tokenizer: str, **settings: Any) -> Path:
    """As PyLate 1 saves it: Transformer and its own Dense, all else in config_sentence_transformers.json."""
    save_random(folder, architecture, tokenizer, **SIZES, **_pads(architecture))
    _add_tokens(folder, [mark for mark in (settings.get("query_prefix"), settings.get("document_prefix")) if mark])
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 31, "do_lower_case": False}))
    (folder / "1_Dense").mkdir()
    activation = "torch.nn.modules.linear.Identity"
    dense = {"in_features": 48, "out_features": OUT, "bias": False, "activation_function": activation}
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense))
    save_file({"linear.weight": _projection()}, folder / "1_Dense" / "model.safetensors")
    usual = {"model_type": "ColBERT", "similarity_fn_name": "MaxSim", "prompts": {}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(usual | settings))
    return folder


def make_stanford(folder: Path, **metadata: Any) -> Path:
    """``HF_ColBERT``: BERT under ``bert.`` and ``linear.weight``, settings in artifact.metadata."""
    save_random(folder, "BertModel", "bert", **SIZES)
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors | {"linear.weight": _projection()}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "artifact.metadata").write_text(json.dumps({"query_maxlen": 32, "doc_maxlen": 40} | metadata))
    return folder


def _add_tokens(folder: Path, marks: Sequence[str]) -> None:
    """As PyLate does: ordinary added tokens, behind the vocabulary."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(list(marks))
    tokenizer.save(str(folder / "tokenizer.json"))


def _pads(architecture: str) -> dict[str, int]:
    if architecture.startswith("Qwen3"):
        return {"num_key_value_heads": 2, "head_dim": 16}
    return {"pad_token_id": 3} if architecture.startswith("ModernBert") else {}


class Reference:
    """sentence-transformers, one text at a time, in fp32."""

    def __init__(self, folder: Path) -> None:
        from sentence_transformers import MultiVectorEncoder

        self.model = MultiVectorEncoder(str(folder), device="cpu", local_files_only=True)

    def scores(self, query: str, documents: Sequence[str]) -> np.ndarray:
        vectors = self.model.encode_query(query, convert_to_numpy=False)
        found = [self.model.encode_document(document, convert_to_numpy=False) for document in documents]
        return np.array([float(self.model.similarity([vectors], [one])[0, 0]) for one in found])
