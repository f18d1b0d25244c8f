"""How much of a GPU this process may use, and what of it the KV cache gets. Arithmetic only.

By default everything that is free at start may be used, but only what model, KV cache and a measured step need is
taken; a limit given by the user is enforced by the allocator, so a step that exceeds it is halved, not killed.
"""

from __future__ import annotations

from engine.config import DeviceConfig
from engine.errors import ConfigError, DeviceError

GIB = 2**30
LIBRARIES = GIB // 2
"""Left for cuBLAS workspaces and the CUDA context, which the allocator does not see."""
KV_CACHE_SHARE = 0.5
"""Of what is free after the weights; the other half is for activations and graphs."""


def memory_limit(config: DeviceConfig, free: int, total: int) -> tuple[int, str]:
    """Bytes that this process may use, and a note that says why.

    Raises ``ConfigError`` for a share that is none, and ``DeviceError`` for more bytes than the GPU has free.
    """
    share, asked = config.gpu_memory_utilization, config.gpu_memory_bytes
    if share is not None and not 0.0 < share <= 1.0:
        raise ConfigError(f"gpu_memory_utilization must be above 0 and at most 1, not {share}")
    if asked is None and share is not None:
        asked = int(total * share)
    if asked is None:
        limit = max(0, free - LIBRARIES)
        return limit, f"may use {limit / GIB:.1f} GiB, all that is free of {total / GIB:.1f} GiB"
    if asked > total:
        raise DeviceError(f"a limit of {asked / GIB:.1f} GiB was asked for, but the GPU has {total / GIB:.1f} GiB")
    if asked > free:
        raise DeviceError(
            f"a limit of {asked / GIB:.1f} GiB was asked for, but only {free / GIB:.1f} of {total / GIB:.1f} GiB are "
            "free; other processes hold the rest"
        )
    return asked, f"may use {asked / GIB:.1f} GiB of {total / GIB:.1f} GiB, as asked"


def kv_cache_tokens(free: int, wanted: int, bytes_per_token: int) -> int:
    """Slots for keys and values: what is wanted, or what half of the free memory holds."""
    return max(0, min(wanted, int(free * KV_CACHE_SHARE) // bytes_per_token))
