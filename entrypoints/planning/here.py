"""The device of this machine as ``DeviceFacts``: its memory as it is, its products as they are measured."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from engine.config import DeviceConfig, DeviceName
from engine.entrypoints.planning.devices import H200, DeviceFacts, recognise
from engine.entrypoints.planning.model_shape import ModelShape

CPU_STEP_SHARE = 0.85
"""Of the products' rate: 84 to 90 % of a step's time is in them, and products are all that is measured."""


def measure(device: str, shape: ModelShape, cpu_threads: int | None, num_devices: int) -> DeviceFacts:
    """On a CPU, ``num_devices`` replicas share the machine: memory and bandwidth by their number, cores by threads."""
    from engine.backends.measure.products import measure_products

    config = DeviceConfig(device=cast(DeviceName, device), cpu_threads=cpu_threads)
    found = measure_products(config, shape.products, shape.stored_dtype)
    if found.backend == "cpu":
        return DeviceFacts(
            name="cpu",
            kind="cpu",
            memory_bytes=found.memory_bytes / num_devices,
            bandwidth=found.bandwidth / num_devices,
            rates=found.rates,
            link=found.bandwidth / num_devices,
            token_budget=found.token_budget,
            usable_memory=0.9,
            step_share=CPU_STEP_SHARE,
            source=f"products measured now; {CPU_STEP_SHARE:.0%} of them for a step",
        )
    known = recognise(found.note)
    base = known or H200
    # Quantised products are not measured: the table's ratio to the device's own dtype is kept.
    ratio = found.rates[found.dtype] / base.rates[base.default_dtype]
    rates = {kind: rate * ratio for kind, rate in base.rates.items()} if known else dict(found.rates)
    return replace(
        base,
        name=found.note.split(",")[0],
        kind="npu" if found.backend == "npu" else "cuda",
        memory_bytes=float(found.memory_bytes),
        rates=rates | found.rates,
        source=f"products in {found.dtype} measured now; {base.step_share:.0%} of them for a step is assumed",
    )
