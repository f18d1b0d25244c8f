"""Listwise training of the small reranker, one thread, with checkpoints a loader can read.

The queries of a step are of equal length, and their prompts up to the document are computed once. Documents are sorted
by length and run in a few chunks, so that padding costs little; the loss is taken over all chunks together.
"""

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.tiny_reranker.model import TinyConfig, TinyReranker
from benchmarks.tiny_reranker.pool import Pool
from benchmarks.tiny_reranker.prompt import Encoded, PromptEncoder, vary_prompt
from benchmarks.tiny_reranker.tokenizer import save_tokenizer, token_id

LONG_LIMIT = 256


@dataclass(frozen=True)
class TrainConfig:
    steps: int = 1200
    # On a shared machine a step takes as long as it takes: the schedule ends with whichever is used up first.
    budget_s: float = math.inf
    queries_per_step: int = 8
    # Negatives of a list: found by BM25, found by the teacher, random.
    by_words: int = 3
    by_meaning: int = 2
    at_random: int = 2
    # How often the variant of the right text is shown: too often, and the model learns to distrust words.
    variant_share: float = 0.4
    chunks: int = 4
    rate: float = 3e-4
    embedding_rate: float = 1.5e-4
    warmup: int = 20
    weight_decay: float = 0.01
    # The listwise loss against the teacher's choice, against the right text, and a little binary loss that calibrates.
    teacher_weight: float = 0.7
    hard_weight: float = 0.3
    binary_weight: float = 0.05
    temperature: float = 0.05
    # Document lengths in tokens and how often a step uses each as its limit.
    limits: tuple[int, ...] = (64, 128, 256, 448)
    limit_shares: tuple[float, ...] = (0.45, 0.35, 0.15, 0.05)
    save_every: int = 25
    seed: int = 0


def collate(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Right-padded ids and lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    out = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row)
    return out, lengths


def score_queries(model: TinyReranker, queries: Sequence[Sequence[Encoded]], chunks: int) -> Tensor:
    """Logits of all rows, query after query. The heads of the queries must be of one length."""
    heads = model.heads(torch.tensor([rows[0].head for rows in queries]))
    owners = torch.tensor([owner for owner, rows in enumerate(queries) for _ in rows])
    tails = [row.tail for rows in queries for row in rows]
    order = sorted(range(len(tails)), key=lambda i: len(tails[i]))
    size = math.ceil(len(order) / chunks)
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    logits = torch.cat([model.tails(heads, owners[part], *collate([tails[i] for i in part])) for part in parts])
    return logits[torch.argsort(torch.tensor(order))]


def ranking_loss(logits: Tensor, taught: Tensor, config: TrainConfig) -> Tensor:
    """``logits`` and the teacher's cosines ``taught``, both (Q, D); the right text stands in the first column."""
    soft = F.cross_entropy(logits, (taught / config.temperature).softmax(1))
    hard = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    binary = F.softplus(-logits[:, 0]).mean() + F.softplus(logits[:, 1:]).mean()
    return config.teacher_weight * soft + config.hard_weight * hard + config.binary_weight * binary


def learning_rate(step: int, progress: float, config: TrainConfig) -> float:
    """Factor of the base rate: linear warm-up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / config.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


class Step(NamedTuple):
    """Queries of equal length, each with its documents, the right one first, and the teacher's cosines (Q, D)."""

    queries: list[list[Encoded]]
    taught: Tensor


class Batches:
    """Draws steps from the pool; ``queries`` and ``texts`` are the teacher's vectors."""

    def __init__(
        self, pool: Pool, queries: np.ndarray, texts: np.ndarray, encoder: PromptEncoder, config: TrainConfig
    ) -> None:
        self.pool, self.vectors, self.encoder, self.config = pool, (queries, texts), encoder, config
        self.rng = random.Random(config.seed)
        self.groups: list[list[int]] = []
        # With the line break, which may merge with a last punctuation mark.
        lengths = [len(ids) for ids in encoder.text_ids([f" {query}\n" for query in pool.queries])]
        self.by_length: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            self.by_length.setdefault(length, []).append(index)

    def _shuffle(self) -> None:
        """Deals every query once, in groups of equal length; what is left over waits for the next deal."""
        size = self.config.queries_per_step
        for members in self.by_length.values():
            self.rng.shuffle(members)
            self.groups += [members[at : at + size] for at in range(0, len(members) - size + 1, size)]
        if not self.groups:  # very few queries, as in a test
            self.groups = [members[:size] for members in self.by_length.values()]
        self.rng.shuffle(self.groups)

    def documents(self, query: int) -> list[int]:
        pool, rng, config = self.pool, self.rng, self.config
        chosen = [pool.positive[query]]
        kinds = (pool.by_words[query], config.by_words), (pool.by_meaning[query], config.by_meaning)
        for found, wanted in kinds:
            fresh = [document for document in found if document not in chosen]
            chosen += rng.sample(fresh, min(wanted, len(fresh)))
        size = 1 + config.by_words + config.by_meaning + config.at_random
        while len(chosen) < size:
            other = rng.randrange(len(pool.texts))
            if pool.groups[other] != pool.groups[chosen[0]] and other not in chosen:
                chosen.append(other)
        return chosen

    def draw(self) -> Step:
        if not self.groups:
            self._shuffle()
        members = self.groups.pop()
        limit = self.rng.choices(self.config.limits, self.config.limit_shares)[0]
        self.encoder.max_document = limit
        # Long documents in fewer lists, so that steps take about the same time.
        if limit >= LONG_LIMIT:
            members = members[: max(1, len(members) * LONG_LIMIT // (2 * limit))]
        instruction, short = vary_prompt(self.rng)
        queries, taught = [], []
        for query in members:
            chosen = self.documents(query)
            texts = [self.pool.texts[document] for document in chosen]
            if (variant := self.pool.shown[query]) and self.rng.random() < self.config.variant_share:
                texts[0] = variant
            queries.append(self.encoder.encode(self.pool.queries[query], texts, instruction=instruction, short=short))
            own, others = self.vectors[0][query], self.vectors[1][chosen]
            taught.append(torch.from_numpy(others.astype(np.float32) @ own.astype(np.float32)))
        return Step(queries, torch.stack(taught))


def save_checkpoint(model: TinyReranker, tokenizer: Tokenizer, folder: Path) -> None:
    """The folder of an original Qwen3-Reranker: tied embeddings, so no ``lm_head`` is stored."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_hf()
    ids = {name: tokenizer.token_to_id(name) for name in ("<|im_end|>", "<|endoftext|>")}
    config |= {"bos_token_id": None, "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    generation = {
        "do_sample": False,
        "max_new_tokens": 1,
        **{name: config[name] for name in ("eos_token_id", "pad_token_id")},
    }
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    save_tokenizer(tokenizer, folder, model.config.max_position_embeddings)


def load_checkpoint(folder: Path) -> tuple[TinyReranker, Tokenizer]:
    settings = json.loads((folder / "config.json").read_text())
    config = TinyConfig(**{name: settings[name] for name in TinyConfig.__dataclass_fields__})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = TinyReranker(config, token_id(tokenizer, "yes"), token_id(tokenizer, "no"))
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()})
    return model, tokenizer


def compile_layers(model: TinyReranker) -> None:
    """A quarter less time per step, for a few minutes of compilation at the start."""
    for layer in model.layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)  # type: ignore[method-assign]
        layer.key_value = torch.compile(layer.key_value, dynamic=True)  # type: ignore[method-assign]


def make_optimizer(model: TinyReranker, config: TrainConfig) -> torch.optim.Optimizer:
    groups = {
        "embedding": (config.embedding_rate, 0.0),
        "matrix": (config.rate, config.weight_decay),
        "norm": (config.rate, 0.0),
    }
    members: dict[str, list[torch.nn.Parameter]] = {name: [] for name in groups}
    for name, parameter in model.named_parameters():
        kind = "embedding" if "embed" in name else "matrix" if parameter.dim() == 2 else "norm"
        members[kind].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members[kind], "lr": rate, "base": rate, "weight_decay": decay}
            for kind, (rate, decay) in groups.items()
        ],
        betas=(0.9, 0.98),
    )


def train(model: TinyReranker, tokenizer: Tokenizer, batches: Batches, output: Path) -> list[float]:
    """Trains in place, writes a checkpoint to ``output`` now and then, returns the loss of every step."""
    config = batches.config
    torch.manual_seed(config.seed)
    optimizer = make_optimizer(model, config)
    losses: list[float] = []
    right, begin = 0.0, time.perf_counter()
    for step in range(config.steps):
        progress = max(step / config.steps, (time.perf_counter() - begin) / config.budget_s)
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * learning_rate(step, progress, config)
        drawn = batches.draw()
        logits = score_queries(model, drawn.queries, config.chunks).view(drawn.taught.shape)
        loss = ranking_loss(logits, drawn.taught, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        right = 0.97 * right + 0.03 * float((logits.argmax(1) == 0).float().mean())
        if step % 20 == 0:
            pace = (time.perf_counter() - begin) / (step + 1)
            recent = losses[-20:]
            print(f"step {step} loss {sum(recent) / len(recent):.3f} first {right:.3f} {pace:.2f} s/step", flush=True)
        if (step + 1) % config.save_every == 0:
            save_checkpoint(model, tokenizer, output)
    save_checkpoint(model, tokenizer, output)
    return losses
