"""Teaches the layers in which query and document meet, from lists of one right text and wrong ones.

The loss is the cross-entropy of each list against the right text and against the teacher's own choice (its cosines), so
what the teacher knows is kept; the average of the weights over the steps is what is saved, mixed with the weights at
the start. The layers below are frozen: what they say to a text is read from a file (``states.py``).
"""

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.small_reranker.network import LateCross
from benchmarks.small_reranker.pool import Pool
from benchmarks.small_reranker.states import States, batches_of


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 1500
    # On a shared machine a step takes as long as it takes: the schedule ends with whichever is used up first.
    budget_s: float = math.inf
    queries_per_step: int = 8
    # Negatives of a list: found by BM25, found by the teacher, random.
    by_words: int = 3
    by_meaning: int = 3
    at_random: int = 1
    # How often the variant of the right text is shown: without the words of the query, or the sentence that it is.
    variant_share: float = 0.5
    rate: float = 5e-5
    warmup: int = 50
    weight_decay: float = 0.01
    # Lists against the right text, and against the teacher's choice.
    hard_weight: float = 0.5
    teacher_weight: float = 0.5
    temperature: float = 0.05
    average_from: float = 0.3  # of the schedule: the mean of the weights is taken from here on
    chunk_tokens: int = 2048  # padded
    save_every: int = 100
    seed: int = 0


class Lists(NamedTuple):
    """Query after query, its documents: the two texts' hidden states, and the teacher's cosines (Q, D)."""

    queries: list[Tensor]
    documents: list[Tensor]
    taught: Tensor


class Batches:
    """Draws lists from the pool. The texts of the states are the pool's and behind them the shown variants."""

    def __init__(self, pool: Pool, queries: States, texts: States, config: TrainConfig) -> None:
        self.pool, self.queries, self.texts, self.config = pool, queries, texts, config
        self.rng = random.Random(config.seed)
        self.variants = {query: len(pool.texts) + place for place, query in enumerate(pool.varied())}
        self.waiting: list[int] = []

    def documents(self, query: int) -> list[int]:
        pool, rng, config = self.pool, self.rng, self.config
        chosen = [pool.positive[query]]
        for found, wanted in ((pool.by_words[query], config.by_words), (pool.by_meaning[query], config.by_meaning)):
            fresh = [document for document in found if document not in chosen]
            chosen += rng.sample(fresh, min(wanted, len(fresh)))
        while len(chosen) < 1 + config.by_words + config.by_meaning + config.at_random:
            other = rng.randrange(len(pool.texts))
            if pool.groups[other] != pool.groups[chosen[0]] and other not in chosen:
                chosen.append(other)
        if query in self.variants and rng.random() < config.variant_share:
            chosen[0] = self.variants[query]
        return chosen

    def draw(self) -> Lists:
        if len(self.waiting) < self.config.queries_per_step:
            self.waiting = list(range(len(self.pool.queries)))
            self.rng.shuffle(self.waiting)
        queries, documents, taught = [], [], []
        for query in [self.waiting.pop() for _ in range(self.config.queries_per_step)]:
            chosen = self.documents(query)
            queries += [self.queries[query]] * len(chosen)
            documents += [self.texts[document] for document in chosen]
            taught.append(torch.from_numpy(self.texts.vectors[chosen] @ self.queries.vectors[query]))
        return Lists(queries, documents, torch.stack(taught))


def cosines(network: LateCross, lists: Lists, config: TrainConfig) -> Tensor:
    """(Q, D), in chunks of pairs of similar length."""
    device = next(network.parameters()).device
    pairs = list(zip(lists.queries, lists.documents, strict=True))
    parts = batches_of([len(query) + len(document) for query, document in pairs], config.chunk_tokens)
    out = []
    for part in parts:
        joined = [torch.cat(pairs[i]) for i in part]
        lengths = torch.tensor([len(row) for row in joined])
        firsts = torch.tensor([len(pairs[i][0]) for i in part])
        places = torch.arange(int(lengths.max()))
        hidden = nn.utils.rnn.pad_sequence(joined, batch_first=True)
        kept, side = places < lengths[:, None], (places >= firsts[:, None]).long()
        out.append(network.together(hidden.to(device), kept.to(device), side.to(device)))
    order = torch.tensor([i for part in parts for i in part], device=device)
    return torch.cat(out)[torch.argsort(order)].view(lists.taught.shape)


def ranking_loss(scores: Tensor, taught: Tensor, config: TrainConfig) -> Tensor:
    """``scores`` and the teacher's ``taught``, both cosines (Q, D); the right text stands in the first column."""
    logits = scores / config.temperature
    soft = F.cross_entropy(logits, (taught.to(scores.device) / config.temperature).softmax(1))
    hard = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=scores.device))
    return config.teacher_weight * soft + config.hard_weight * hard


def learning_rate(step: int, progress: float, config: TrainConfig) -> float:
    """Factor of the base rate: linear warm-up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / config.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class Average:
    """The mean of the trained weights over the steps."""

    def __init__(self) -> None:
        self.count, self.total = 0, dict[str, Tensor]()

    def add(self, module: nn.Module) -> None:
        self.count += 1
        for name, tensor in module.state_dict().items():
            mean = self.total.setdefault(name, torch.zeros_like(tensor))
            mean += (tensor - mean) / self.count


def save(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}, partial)
    partial.rename(path)


def train(network: LateCross, batches: Batches, output: Path) -> list[float]:
    """Trains the upper layers in place; writes their averaged weights now and then; returns the loss of every step."""
    config = batches.config
    torch.manual_seed(config.seed)
    upper = nn.ModuleList(network.upper)
    matrices = [tensor for tensor in upper.parameters() if tensor.dim() == 2]
    others = [tensor for tensor in upper.parameters() if tensor.dim() != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.rate, betas=(0.9, 0.98),
    )  # fmt: skip
    average, losses, right, begin = Average(), list[float](), 0.0, time.perf_counter()
    for step in range(config.steps):
        progress = max(step / config.steps, (time.perf_counter() - begin) / config.budget_s)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.rate * learning_rate(step, progress, config)
        drawn = batches.draw()
        scores = cosines(network, drawn, config)
        loss = ranking_loss(scores, drawn.taught, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(upper.parameters(), 1.0)
        optimizer.step()
        if progress >= config.average_from:
            average.add(upper)
        losses.append(loss.item())
        right = 0.97 * right + 0.03 * float((scores.argmax(1) == 0).float().mean())
        if step % 20 == 0:
            pace = (time.perf_counter() - begin) / (step + 1)
            recent = losses[-20:]
            print(f"step {step} loss {sum(recent) / len(recent):.3f} first {right:.3f} {pace:.2f} s/step", flush=True)
        if (step + 1) % config.save_every == 0 and average.count:
            save(upper, average.total, output / f"upper-{step + 1:05}.safetensors")
    if average.count:
        save(upper, average.total, output / "upper.safetensors")
    return losses


def read_upper(network: LateCross, tensors: dict[str, Tensor], share: float = 1.0) -> None:
    """Puts trained weights into the upper layers, mixed with those that are there: ``share`` of the trained ones."""
    upper = nn.ModuleList(network.upper)
    state = {name: tensor + share * (tensors[name] - tensor) for name, tensor in upper.state_dict().items()}
    upper.load_state_dict(state)


def best_share(scores: Sequence[tuple[float, float]]) -> float:
    """The share with the best measure."""
    return max(scores, key=lambda pair: pair[1])[0]
