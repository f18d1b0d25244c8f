"""What the layers that are not trained say, computed once: hidden states of every text, and the teacher's vectors.

The lower layers are frozen, so a text's hidden states behind them are constants of the training. They are kept in one
file of float16 rows with an index, mapped rather than read; the teacher's vectors come from the same pass.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.small_reranker.network import LateCross, padded

BATCH_TOKENS = 4096  # padded


def batches_of(lengths: Sequence[int], budget: int = BATCH_TOKENS) -> list[list[int]]:
    """Indices in batches of similar lengths, padded at most ``budget`` tokens."""
    out: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not out or lengths[index] * (len(out[-1]) + 1) > budget:
            out.append([])
        out[-1].append(index)
    return out


@torch.inference_mode()
def write_states(folder: Path, name: str, rows: Sequence[list[int]], network: LateCross) -> None:
    """``NAME-hidden.npy`` (all tokens, D), ``NAME-starts.npy`` (N + 1,), ``NAME-vectors.npy`` (N, D)."""
    folder.mkdir(parents=True, exist_ok=True)
    device = next(network.parameters()).device
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    size = network.bert.config.hidden_size
    hidden_file = folder / f"{name}-hidden.npy"
    kept_hidden = np.lib.format.open_memmap(hidden_file, "w+", np.float16, (int(starts[-1]), size))
    vectors = np.zeros((len(rows), size), np.float16)
    for batch in batches_of([len(row) for row in rows]):
        ids, kept = padded([rows[i] for i in batch], device)
        hidden = network.alone(ids, kept)
        vectors[batch] = network.finish_alone(hidden, kept).half().cpu().numpy()
        for row, index in zip(hidden.half().cpu().numpy(), batch, strict=True):
            kept_hidden[starts[index] : starts[index + 1]] = row[: len(rows[index])]
    kept_hidden.flush()
    np.save(folder / f"{name}-starts.npy", starts)
    np.save(folder / f"{name}-vectors.npy", vectors)


class States:
    """Hidden states (L, D) and teacher's vectors of the texts of one name."""

    def __init__(self, folder: Path, name: str) -> None:
        self._hidden = np.load(folder / f"{name}-hidden.npy", mmap_mode="r")
        self._starts = np.load(folder / f"{name}-starts.npy")
        self.vectors = np.load(folder / f"{name}-vectors.npy").astype(np.float32)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.array(self._hidden[self._starts[index] : self._starts[index + 1]], np.float32))
