"""What the embedding knows before training: how rare a word is, which tokens are forms of it, what it goes with.

Three things per token:

- a *stem class*: "File", " files" and " file" share one;
- an inverse document frequency of the class;
- a *meaning* vector of the class: a low-rank factorisation of positive pointwise mutual information, refined by
  matching bags of words of titles and texts against the other texts of a batch. Both cost minutes, where a
  cross-encoder would need days to find out the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

WINDOW = 6
MAX_TITLE_TOKENS, MAX_BODY_TOKENS = 24, 128


class Codes(NamedTuple):
    """``class_of`` (V,), ``is_word`` (V,), ``idf`` (V,) in 0..1, ``meaning`` (V, dim) of unit length."""

    class_of: np.ndarray
    is_word: np.ndarray
    idf: np.ndarray
    meaning: torch.Tensor


def stem(word: str) -> str:
    """A crude English stem: endings of plural, past and -ing are cut where three letters remain."""
    word = word.lower()
    if len(word) < 4 or not word.isalpha():
        return word
    for ending, replacement in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("s", ""), ("ly", "")):
        base = word.removesuffix(ending)
        if base != word and len(base) >= 3 and not word.endswith("ss"):
            word = base + replacement
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 4 else word


def stem_classes(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """(class of each token, whether the token begins a word)."""
    classes: dict[str, int] = {}
    size = tokenizer.get_vocab_size()
    class_of, is_word = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=bool)
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for index in range(size):
        token = tokenizer.id_to_token(index) or ""
        text = token.replace("\u0120", " ")
        bare = text.strip()
        is_word[index] = text[:1] == " " or text[:1].isupper()
        key = token if token in added or not bare.isalpha() else stem(bare)
        class_of[index] = classes.setdefault(key, len(classes))
    return class_of, is_word


def document_frequency(texts: Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    counts = np.zeros(num_classes)
    for ids in texts:
        counts[np.unique(ids)] += 1
    return counts


def cooccurrence(stream: np.ndarray, num_classes: int) -> np.ndarray:
    """Symmetric counts of classes within ``WINDOW`` tokens, nearer ones counting more. ``-1`` separates texts."""
    counts = np.zeros(num_classes * num_classes, dtype=np.float32)
    for distance in range(1, WINDOW + 1):
        left, right = stream[:-distance], stream[distance:]
        keep = (left >= 0) & (right >= 0)
        keys = left[keep] * num_classes + right[keep]
        counts += np.bincount(keys, minlength=len(counts)).astype(np.float32) * (1 - (distance - 1) / WINDOW)
    square = counts.reshape(num_classes, num_classes)
    return square + square.T


def factorise(counts: np.ndarray, dim: int) -> torch.Tensor:
    """Unit vectors whose products approximate positive pointwise mutual information, with smoothed contexts."""
    matrix = torch.from_numpy(counts)
    rows, columns = matrix.sum(1, keepdim=True) + 1, (matrix.sum(0, keepdim=True) + 1) ** 0.75
    columns = columns / columns.sum()
    information = torch.log(matrix.clamp_min(1e-9) / (rows * columns)).clamp_min_(0)
    torch.manual_seed(0)
    left, values, _ = torch.svd_lowrank(information, q=dim, niter=3)
    return F.normalize(left * values.sqrt(), dim=1)


def _padded(texts: Sequence[np.ndarray], limit: int) -> torch.Tensor:
    width = min(limit, max(len(text) for text in texts))
    out = np.full((len(texts), width), -1, dtype=np.int64)
    for row, text in enumerate(texts):
        out[row, : min(width, len(text))] = text[:width]
    return torch.from_numpy(out)


def refine(
    start: torch.Tensor, idf: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]], *,
    steps: int, batch: int = 512, rate: float = 2e-3, seed: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Pulls the bag of a title towards the bag of its text and away from the batch's other texts."""
    num_classes, dim = start.shape
    table = torch.nn.Parameter(torch.cat((start, torch.zeros(1, dim))))
    weight = torch.nn.Parameter(torch.cat((torch.from_numpy(idf).float(), torch.zeros(1))))
    scale = torch.nn.Parameter(torch.tensor(3.0))
    optimizer = torch.optim.Adam([{"params": [table], "lr": rate}, {"params": [weight, scale], "lr": rate}])
    rng = np.random.default_rng(seed)

    def bag(ids: torch.Tensor) -> torch.Tensor:
        shares = weight[ids].clamp_min(0) * (ids != -1)
        return F.normalize((table[ids] * shares[..., None]).sum(1), dim=-1)

    for step in range(steps):
        chosen = rng.integers(0, len(pairs), batch)
        title_ids = _padded([pairs[i][0] for i in chosen], MAX_TITLE_TOKENS)
        body_ids = _padded([pairs[i][1] for i in chosen], MAX_BODY_TOKENS)
        logits = bag(title_ids) @ bag(body_ids).T * scale.exp()
        loss = F.cross_entropy(logits, torch.arange(batch)) + F.cross_entropy(logits.T, torch.arange(batch))
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"codes step {step} loss {loss.item() / 2:.3f}", flush=True)
    return F.normalize(table.detach()[:num_classes], dim=1)


def learn_codes(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], *, dim: int, steps: int, batch: int = 512
) -> Codes:
    """Codes from (title, text) pairs."""
    class_of, is_word = stem_classes(tokenizer)
    num_classes = int(class_of.max()) + 1
    sides = [tokenizer.encode_batch_fast([" " + pair[side] for pair in pairs]) for side in (0, 1)]
    titles, bodies = ([class_of[encoding.ids] for encoding in side] for side in sides)
    frequency = document_frequency(bodies, num_classes)
    idf = np.log((len(pairs) + 1) / (frequency + 1))
    idf = (idf / idf.max()).astype(np.float32)
    end = np.array([-1] * WINDOW)
    stream = np.concatenate([part for pair in zip(titles, bodies, strict=True) for part in (*pair, end)])
    meaning = factorise(cooccurrence(stream, num_classes), dim)
    meaning = refine(meaning, idf, list(zip(titles, bodies, strict=True)), steps=steps, batch=batch)
    return Codes(class_of, is_word, idf[class_of], meaning[class_of])
