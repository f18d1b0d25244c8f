"""Compiled kernels for CPUs, in C++ (``csrc/``), with the best instruction set of the processor chosen at load.

``available()`` says why they cannot be used, if so; ``CpuOps`` implements ``kernels.ops.Ops`` with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.kernels.cpu.ops import CpuOps

__all__ = ["CpuOps", "available"]


def available() -> str | None:
    """None when the kernels can be used, else the reason in one sentence."""
    try:
        import engine.kernels.cpu._C  # noqa: F401
    except ImportError as error:
        return f"the compiled CPU kernels are not installed ({error}); build them with `pip install -e .`"
    return None


def __getattr__(name: str) -> Any:
    if name == "CpuOps":
        from engine.kernels.cpu.ops import CpuOps

        return CpuOps
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
