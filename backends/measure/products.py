"""How fast the matrix products of a model's layers run here: a second of measuring, on whatever device there is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from engine.backends.base import Backend
from engine.backends.registry import choose_backend
from engine.config import DeviceConfig
from engine.kernels.ops import Ops

ROWS = 512
COPY_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Measured:
    """The measured rates of the device that ``--device`` chooses on this machine."""

    backend: str
    note: str
    """How the backend calls its device."""
    dtype: str
    memory_bytes: int
    token_budget: int
    keeps_narrow_weights: bool
    keeps_groups: Mapping[int, Collection[str | None]]
    wider_parts: Mapping[str, tuple[str, int]]
    rates: dict[str, float]
    """Operations a second in the products, by dtype or quantisation."""
    bandwidth: float
    """Bytes a second, read and written, of a copy."""


def measure_products(
    config: DeviceConfig, products: Sequence[tuple[int, int]], stored_dtype: str, *, seconds: float = 0.3
) -> Measured:
    """Measures products of these (outputs, inputs). The first quantity of ``rates`` is the device's own dtype."""
    backend, reason = choose_backend(config.device)
    notes = backend.set_up(replace(config, cpu_pin=False), 0)
    device = backend.device(0)
    dtype = backend.auto_dtype(stored_dtype)
    rates = {}
    capabilities = backend.capabilities
    quantizations = capabilities.quantizations if capabilities.quantizes_plain_inputs else ()
    for quantization in (None, *quantizations):
        ops, _ = backend.make_ops(device, getattr(torch, dtype), quantization)
        rates[quantization or dtype] = _rate(backend, ops, products, device, getattr(torch, dtype), seconds)
    return Measured(
        backend=backend.name,
        note=notes[0] if notes else reason,
        dtype=dtype,
        memory_bytes=backend.memory(device).total_bytes,
        token_budget=capabilities.default_token_budget,
        keeps_narrow_weights=capabilities.keeps_narrow_weights,
        keeps_groups=capabilities.keeps_groups,
        wider_parts=capabilities.wider_parts,
        rates=rates,
        bandwidth=_copy_rate(backend, device),
    )


def _rate(
    backend: Backend,
    ops: Ops,
    products: Sequence[tuple[int, int]],
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
) -> float:
    generator = torch.Generator().manual_seed(0)
    runs, flop = [], 0.0
    for outputs, inputs in products:
        weight = ops.new_linear(outputs, inputs)
        weight.load_rows(0, torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
        x = torch.randn(ROWS, inputs, generator=generator).to(device, dtype)
        runs.append((x, weight))
        flop += 2.0 * ROWS * outputs * inputs
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        for x, weight in runs:
            ops.linear(x, weight)
        backend.synchronize(device)
        times.append(time.perf_counter() - started)
    return flop / statistics.median(times[1:])


def _copy_rate(backend: Backend, device: torch.device) -> float:
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = []
    for _ in range(4):
        backend.synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        backend.synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * COPY_BYTES / min(times)
