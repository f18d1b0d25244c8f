"""The same random checkpoint through transformers in fp32 and through the engine: how far apart are the scores?

A few layers of the model's own width, so that every kernel runs in its real shape; the weights are larger than those of
an untrained model, so that logits spread as those of a trained one do.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.baseline import build_model, score
from benchmarks.gpu.engine_run import MAX_LEN, Engine
from benchmarks.gpu.settings import Settings
from benchmarks.gpu.shapes import SHAPES
from benchmarks.gpu.workloads import CallTokens, Workload, build_calls

LAYERS = 6
BOUNDS = {"float32": 1e-4, "bfloat16": 0.03, "fp8": 0.12}
"""Largest difference of a probability that counts as passed."""
WORKLOADS = (
    Workload("few", "4 queries of 12 documents", 4, 12, 32, 60),
    Workload("long", "2 documents of about 1,500 tokens", 1, 2, 20, 1500),
    Workload("single", "single pairs", 6, 1, 14, 36),
)


def measure_parity(settings: Settings, scale: int = 1) -> dict[str, Any]:
    """Also with sharing off, and each pair alone: a pair's score must not depend on what else was in its step."""
    shape = replace(SHAPES[settings.model], layers=LAYERS if scale == 1 else 2, vocab_size=2000)
    workloads = [w if scale == 1 else w.scaled(2, scale) for w in WORKLOADS]
    constant_prefix, _ = build_calls(workloads[0], shape.vocab_size)
    calls = [call for workload in workloads for call in build_calls(workload, shape.vocab_size)[1]]
    torch.manual_seed(0)
    model = build_model(shape, replace(settings, dtype_name="float32"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.35 if "embed" in name else 1.2 / parameter.shape[1] ** 0.5)
            parameter.copy_(parameter.to(torch.bfloat16))
    expected = [score(model, call.prompts, 4, settings.device) for call in calls]
    result: dict[str, Any] = {"model": f"{shape.name}, {shape.layers} layers", "pairs": len(np.concatenate(expected))}
    with tempfile.TemporaryDirectory() as folder:
        model.to(torch.bfloat16).save_pretrained(folder)  # exact: the values were rounded above
        del model
        for name, run in _runs(settings).items():
            result[name] = _compare(run, shape.spec(MAX_LEN, folder), constant_prefix, calls, expected)
    return result


def _runs(settings: Settings) -> dict[str, Settings]:
    runs = {"float32": replace(settings, dtype_name="float32")}
    if settings.is_gpu:
        runs["bfloat16"] = replace(settings, dtype_name="bfloat16")
        runs["fp8"] = replace(settings, dtype_name="bfloat16", quantization="fp8")
    return runs


def _compare(
    settings: Settings, spec: Any, constant_prefix: np.ndarray, calls: list[CallTokens], expected: list[np.ndarray]
) -> dict[str, Any]:
    assert Path(spec.path).is_dir()
    shared = _scores(settings, spec, constant_prefix, calls, sharing=True)
    apart = _scores(settings, spec, constant_prefix, calls, sharing=False)
    alone = _scores(settings, spec, constant_prefix, _one_by_one(calls[:1]), sharing=True)
    wanted = _probability(np.concatenate(expected))
    got = _probability(np.concatenate(shared))
    bound = BOUNDS[settings.quantization or settings.dtype_name]
    difference = float(np.abs(got - wanted).max())
    return {
        "max_probability_difference": difference,
        "mean_probability_difference": float(np.abs(got - wanted).mean()),
        "max_logit_difference": float(np.abs(np.concatenate(shared) - np.concatenate(expected)).max()),
        "logit_spread": float(np.std(np.concatenate(expected))),
        "sharing_on_against_off": float(np.abs(got - _probability(np.concatenate(apart))).max()),
        "together_against_alone": float(np.abs(_probability(shared[0]) - _probability(np.concatenate(alone))).max()),
        "order_kept": float(np.mean(np.argsort(wanted) == np.argsort(got))),
        "bound": bound,
        "passed": difference <= bound,
    }


def _one_by_one(calls: list[CallTokens]) -> list[CallTokens]:
    return [CallTokens([prompt], call.query_end) for call in calls for prompt in call.prompts]


def _scores(
    settings: Settings, spec: Any, constant_prefix: np.ndarray, calls: list[CallTokens], *, sharing: bool
) -> list[np.ndarray]:
    engine = Engine.start(settings, spec, constant_prefix, sharing=sharing, dummy=False)
    try:
        return [engine.score([call])[0][0] for call in calls]
    finally:
        engine.close()


def _probability(logits: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
