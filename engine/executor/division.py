"""Whether a model can be divided among so many workers: arithmetic on its config, before any process is started."""

from __future__ import annotations

from engine.checkpoint.families import BodySizes, body_sizes
from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.model_spec import ModelSpec


def divides(sizes: BodySizes, num_workers: int) -> bool:
    """Workers have whole heads and equal parts of the MLP. Key/value heads may be fewer than workers: then several
    workers have the same one."""
    shares_kv = sizes.num_kv_heads % num_workers == 0 or num_workers % sizes.num_kv_heads == 0
    return sizes.num_heads % num_workers == 0 and sizes.intermediate % num_workers == 0 and shares_kv


def check_division(config: EngineConfig, spec: ModelSpec) -> None:
    """Raises ``ConfigError`` where ``tensor_parallel_size`` does not divide the model, with the sizes that do."""
    size = config.device.tensor_parallel_size
    if size == 1:
        return
    sizes = body_sizes(spec.model_type, spec.config)
    if not divides(sizes, size):
        possible = ", ".join(str(parts) for parts in range(1, sizes.num_heads + 1) if divides(sizes, parts))
        raise ConfigError(
            f"tensor_parallel_size {size} does not divide {spec.name} ({sizes.num_heads} attention heads, "
            f"{sizes.num_kv_heads} key/value heads, {sizes.intermediate} features in the MLP); use one of {possible}",
            param="tensor_parallel_size",
        )
