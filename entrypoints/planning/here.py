"""The device of this machine as a data sheet: memory as it is, products and bandwidth as they are measured."""

from __future__ import annotations

from dataclasses import replace

from engine.backends.data_sheet import DataSheet, recognise, unlisted
from engine.config import DeviceConfig
from engine.devices import device_row
from engine.entrypoints.planning.model_shape import ModelShape


def measure(device: str, shape: ModelShape, cpu_threads: int | None, num_devices: int) -> DataSheet:
    """Measures the memory and rates of ``--device device``, which may be ``auto``.

    On the machine's own processor ``num_devices`` replicas share it: memory and bandwidth by their number, cores by
    threads. Raises ``DeviceError`` where there is no such device.
    """
    from engine.backends.measure.products import measure_products

    config = DeviceConfig(device=device, cpu_threads=cpu_threads)
    found = measure_products(config, shape.products, shape.stored_dtype)
    known = recognise(found.backend, found.note)
    if known is not None:
        # Quantised products are not measured: the table's ratio to the device's own dtype is kept.
        ratio = found.rates[found.dtype] / known.rates[known.default_dtype]
        return replace(
            known,
            name=found.note.split(",")[0],
            memory_bytes=float(found.memory_bytes),
            rates={kind: rate * ratio for kind, rate in known.rates.items()} | found.rates,
            source=f"products in {found.dtype} measured now; {known.step_share:.0%} of them for a step is assumed",
        )
    base, is_host = unlisted(found.backend), device_row(found.backend).is_host
    shares = num_devices if is_host else 1
    return replace(
        base,
        name=base.name if is_host else found.note.split(",")[0],
        memory_bytes=found.memory_bytes / shares,
        bandwidth=found.bandwidth / shares,
        link=found.bandwidth / shares if is_host else base.link,
        rates=found.rates,
        token_budget=found.token_budget,
        keeps_narrow_weights=found.keeps_narrow_weights,
        keeps_groups=found.keeps_groups,
        wider_parts=found.wider_parts,
        source=f"products measured now; {base.source}",
    )
