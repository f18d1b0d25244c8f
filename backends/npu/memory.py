"""How much of a card this process may use, and what of it the KV cache gets. Arithmetic only."""

from __future__ import annotations

from engine.backends.base import MemoryFacts
from engine.config import DeviceConfig
from engine.errors import ConfigError, DeviceError

GIB = 2**30
DEFAULT_UTILIZATION = 0.9
OCCUPIED_SHARE = 0.85
"""Of the memory must be free for a card to count as idle."""
KV_CACHE_SHARE = 0.5
"""Of what is free once the weights are there; the rest is for a step's activations and graphs."""


def memory_limit(config: DeviceConfig, total: int) -> int:
    """Bytes that this process may use.

    Raises ``ConfigError`` for a share that is none, and ``DeviceError`` for more bytes than the NPU has.
    """
    share = DEFAULT_UTILIZATION if config.gpu_memory_utilization is None else config.gpu_memory_utilization
    if not 0.0 < share <= 1.0:
        raise ConfigError(f"gpu_memory_utilization must be above 0 and at most 1, not {share}")
    if config.gpu_memory_bytes is None:
        return int(total * share)
    if config.gpu_memory_bytes > total:
        raise DeviceError(
            f"a limit of {config.gpu_memory_bytes / GIB:.1f} GiB was asked for, but the NPU has {total / GIB:.1f} GiB"
        )
    return config.gpu_memory_bytes


def facts(limit: int, free: int, allocated: int, reserved: int) -> MemoryFacts:
    """The memory of a device. ``free``: by the driver; ``allocated``: in tensors, of the ``reserved`` of this process.

    What other processes hold cannot be used, whatever the limit.
    """
    return MemoryFacts(total_bytes=min(limit, free + reserved), free_bytes=max(0, min(free, limit - allocated)))


def occupied_note(free: int, total: int) -> tuple[str, ...]:
    """A line where much of the card is taken before this process has begun."""
    if free >= OCCUPIED_SHARE * total:
        return ()
    return (
        f"{(total - free) / GIB:.1f} of {total / GIB:.1f} GiB are taken by other processes: `npu-smi info` lists them",
    )


def kv_cache_tokens(free: int, wanted: int, bytes_per_token: int) -> int:
    return max(0, min(wanted, int(free * KV_CACHE_SHARE) // bytes_per_token))
