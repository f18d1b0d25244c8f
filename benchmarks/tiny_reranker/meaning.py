"""Static meaning vectors of tokens: their weighted sum is to point where the teacher's vector of the text points.

The start is what the teacher says to each token by itself, reduced to the main directions of the pool. Then vectors and
weights of the tokens are trained on whole texts and queries: to point along the teacher's vector, and to be as near to
the texts of the other queries of a batch as the teacher finds them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.tiny_reranker.teacher import Teacher

MAX_TOKENS = 128
TEMPERATURE = 0.05
SALIENCE_LIMIT = 3.0


class Meaning(NamedTuple):
    """``vectors`` (V, dim) of unit length, ``salience`` (V,): logarithm of a token's weight, within +-3."""

    vectors: Tensor
    salience: Tensor


def main_directions(vectors: np.ndarray, dim: int) -> Tensor:
    """(teacher dim, dim): the plane that keeps most of the products between the vectors."""
    sample = torch.from_numpy(vectors[:20_000].astype(np.float32))
    return torch.linalg.eigh(sample.T @ sample / len(sample))[1].flip(1)[:, :dim]


def token_texts(tokenizer: Tokenizer) -> list[str]:
    return [
        tokenizer.decode([index], skip_special_tokens=False).strip() or "."
        for index in range(tokenizer.get_vocab_size())
    ]


class Bag:
    """Token ids of many texts as one stream, cut to ``MAX_TOKENS``."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        rows = [encoding.ids[:MAX_TOKENS] for encoding in tokenizer.encode_batch_fast([f" {text}" for text in texts])]
        self.starts = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
        self.stream = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])

    def take(self, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """(ids, offsets) as ``embedding_bag`` wants them."""
        parts = [self.stream[self.starts[i] : self.starts[i + 1]] for i in chosen]
        offsets = np.concatenate(([0], np.cumsum([len(part) for part in parts])[:-1]))
        return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(offsets)


def pooled(meaning: Meaning, ids: Tensor, offsets: Tensor) -> Tensor:
    weights = meaning.salience[ids].exp()
    total = F.embedding_bag(ids, meaning.vectors, offsets, mode="sum", per_sample_weights=weights)
    return F.normalize(total, dim=1)


def soft_match(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student's choice among the columns against the teacher's."""
    return F.cross_entropy(student / TEMPERATURE, (teacher / TEMPERATURE).softmax(1))


def difference(ours: Sequence[Tensor], theirs: Sequence[Tensor], axes: Tensor) -> Tensor:
    """Of queries and texts of a batch: the angle to the teacher's vectors, and the choice of a text for each query."""
    aims = [F.normalize(vectors @ axes, dim=1) for vectors in theirs]
    angle = torch.stack([(1 - (own * aim).sum(1)).mean() for own, aim in zip(ours, aims, strict=True)]).sum()
    return soft_match(ours[0] @ ours[1].T, theirs[0] @ theirs[1].T) + 2 * angle


def fit(
    tokenizer: Tokenizer, teacher: Teacher, queries: tuple[Sequence[str], np.ndarray],
    texts: tuple[Sequence[str], np.ndarray], positive: Sequence[int], *,
    dim: int, steps: int, batch: int = 512, rate: float = 2e-3, seed: int = 0,
) -> Meaning:  # fmt: skip
    """``queries`` and ``texts`` come with the teacher's vectors; ``positive[i]`` is the text of query i."""
    axes = main_directions(texts[1], dim)
    own = torch.from_numpy(teacher.embed(token_texts(tokenizer))) @ axes
    table, salience = torch.nn.Parameter(F.normalize(own, dim=1)), torch.nn.Parameter(torch.zeros(len(own)))
    optimizer = torch.optim.Adam([{"params": [table], "lr": rate}, {"params": [salience], "lr": 10 * rate}])
    base = [group["lr"] for group in optimizer.param_groups]
    bags = Bag(tokenizer, queries[0]), Bag(tokenizer, texts[0])
    right, rng = np.asarray(positive), np.random.default_rng(seed)
    for step in range(steps):
        chosen = rng.integers(0, len(right), batch)
        rows = chosen, right[chosen]
        meaning = Meaning(F.normalize(table, dim=1), salience.clamp(-SALIENCE_LIMIT, SALIENCE_LIMIT))
        ours = [pooled(meaning, *bag.take(row)) for bag, row in zip(bags, rows, strict=True)]
        known = zip((queries[1], texts[1]), rows, strict=True)
        theirs = [torch.from_numpy(vectors[row].astype(np.float32)) for vectors, row in known]
        loss = difference(ours, theirs, axes)
        for group, start in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = start * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"meaning step {step} loss {loss.item():.3f}", flush=True)
    return Meaning(F.normalize(table.detach(), dim=1), salience.detach().clamp(-SALIENCE_LIMIT, SALIENCE_LIMIT))
