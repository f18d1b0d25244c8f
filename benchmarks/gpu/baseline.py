"""transformers as sentence-transformers drives it: pairs sorted by length, padded batches, sdpa, last-token logits."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.engine_run import MAX_LEN, Save, percentiles
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.shapes import NO_YES, SHAPES, Shape
from benchmarks.gpu.workloads import WORKLOADS, build_calls, logical_tokens, num_pairs

BATCH_SIZES = (32, 128)
"""32 is the default of sentence-transformers; the larger one is given the chance to be better."""


def build_model(shape: Shape, settings: Settings) -> Any:
    """``Qwen3ForCausalLM`` with random weights, made on the device."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(**{k: v for k, v in shape.config(MAX_LEN).items() if k not in ("architectures", "model_type")})
    with torch.device(settings.device):
        model = AutoModelForCausalLM.from_config(config, dtype=settings.dtype, attn_implementation="sdpa")
    return model.eval()


@torch.inference_mode()
def score(model: Any, prompts: list[np.ndarray], batch_size: int, device: str) -> np.ndarray:
    """logit(yes) - logit(no) of each prompt."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    scores = np.empty(len(prompts), np.float32)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        longest = len(prompts[chosen[0]])
        ids = np.zeros((len(chosen), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, index in enumerate(chosen):  # on the left, as Qwen3-Reranker's tokenizer pads
            ids[row, longest - len(prompts[index]) :] = prompts[index]
            mask[row, longest - len(prompts[index]) :] = 1
        logits = model(
            input_ids=torch.from_numpy(ids).to(device),
            attention_mask=torch.from_numpy(mask).to(device),
            logits_to_keep=1,
            use_cache=False,
        ).logits[:, -1, list(NO_YES)]
        scores[chosen] = (logits[:, 1] - logits[:, 0]).float().cpu().numpy()
    return scores


def measure_baseline(settings: Settings, scale: int = 1, save: Save = lambda result: None) -> dict[str, Any]:
    """Pairs a second of each workload at its better batch size; ``save`` is given what there is after each."""
    shape = SHAPES[settings.model]
    model = build_model(shape, settings)
    result: dict[str, Any] = {"model": shape.name, "workloads": {}}
    for workload in WORKLOADS.values():
        _, calls = build_calls(workload if scale == 1 else workload.scaled(3, scale), shape.vocab_size)
        prompts = [prompt for call in calls for prompt in call.prompts]
        row: dict[str, Any] = {"title": workload.title, "by_batch_size": {}}
        latencies: list[float] = []
        if workload.name == "single":
            for prompt in [prompts[0], *prompts]:
                started = time.perf_counter()
                score(model, [prompt], 1, settings.device)
                latencies.append(time.perf_counter() - started)
            row["call_latency_ms"] = percentiles(latencies[1:])
            row["pairs_per_s"] = (len(latencies) - 1) / sum(latencies[1:])
        else:
            for batch_size in BATCH_SIZES:
                score(model, prompts[: 2 * batch_size], batch_size, settings.device)
                rate, rounds = _rate(settings, model, prompts, batch_size)
                row["by_batch_size"][batch_size] = {"pairs_per_s": rate, "rounds": rounds}
            row["pairs_per_s"] = max(entry["pairs_per_s"] for entry in row["by_batch_size"].values())
        row["logical_tokens_per_s"] = row["pairs_per_s"] * logical_tokens(calls) / num_pairs(calls)
        result["workloads"][workload.name] = row
        save(result)
    return result


def _rate(settings: Settings, model: Any, prompts: list[np.ndarray], batch_size: int) -> tuple[float, int]:
    started, rounds = time.perf_counter(), 0
    while rounds == 0 or time.perf_counter() - started < settings.seconds / 2:
        score(model, prompts, batch_size, settings.device)
        rounds += 1
    return rounds * len(prompts) / (time.perf_counter() - started), rounds
