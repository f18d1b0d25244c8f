"""Executors run a step on one or more workers: in this process (``uni``), in worker processes (``mp``), under Ray."""

from __future__ import annotations

from engine.config import EngineConfig, ExecutorName
from engine.errors import ConfigError
from engine.executor.base import Executor, StepError
from engine.executor.division import check_division
from engine.model_spec import ModelSpec

__all__ = ["Executor", "StepError", "create_executor"]


def create_executor(config: EngineConfig, spec: ModelSpec, *, automatic: ExecutorName) -> Executor:
    """The executor that the settings name, its model loaded; ``automatic`` is what ``auto`` means here.

    Raises ``ConfigError`` for a name that is none, and for ``uni`` with several workers.
    """
    check_division(config, spec)
    name, size = config.device.executor, config.device.tensor_parallel_size
    if name == "auto":
        name = automatic if size == 1 else "mp"
    if name == "uni":
        if size > 1:
            raise ConfigError(
                f"tensor_parallel_size {size} needs {size} worker processes, but the executor uni has none; "
                "use --distributed-executor-backend mp"
            )
        from engine.executor.uniproc import UniprocExecutor

        return UniprocExecutor(config, spec)
    if name == "mp":
        from engine.executor.multiproc import MultiprocExecutor

        return MultiprocExecutor(config, spec)
    if name == "ray":
        from engine.executor.ray_executor import RayExecutor

        return RayExecutor(config, spec)
    raise ConfigError(f"unknown executor {name!r}: choose uni, mp or ray")
