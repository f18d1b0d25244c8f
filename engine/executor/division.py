"""Whether a model can be divided among so many workers: arithmetic on its config, before any process is started."""

from __future__ import annotations

from engine.config import EngineConfig
from engine.errors import ConfigError
from engine.model_spec import ModelSpec


def check_division(config: EngineConfig, spec: ModelSpec) -> None:
    """Workers have whole heads and equal parts of the MLP. Key/value heads may be fewer than workers: then several
    workers have the same one."""
    size = config.device.tensor_parallel_size
    if size == 1:
        return
    num_heads, features = int(spec.config["num_attention_heads"]), int(spec.config["intermediate_size"])
    num_kv_heads = int(spec.config.get("num_key_value_heads") or num_heads)

    def is_possible(parts: int) -> bool:
        shares_kv = num_kv_heads % parts == 0 or parts % num_kv_heads == 0
        return num_heads % parts == 0 and features % parts == 0 and shares_kv

    if not is_possible(size):
        possible = ", ".join(str(parts) for parts in range(1, num_heads + 1) if is_possible(parts))
        raise ConfigError(
            f"tensor_parallel_size {size} does not divide {spec.name} ({num_heads} attention heads, {num_kv_heads} "
            f"key/value heads, {features} features in the MLP); use one of {possible}",
            param="tensor_parallel_size",
        )
