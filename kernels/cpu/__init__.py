"""Compiled kernels for CPUs, in C++ (``csrc/``), with the best instruction set of the processor chosen at load.

``available()`` says why they cannot be used, if so; ``CpuOps`` in ``ops.py`` implements ``kernels.ops.Ops`` with them.
"""

from __future__ import annotations

INT16_LAYERS = 2
"""Of ``int8``, from the first on: their errors go through all later layers (figures: benchmarks/LOG.md)."""


def available() -> str | None:
    """The reason why the kernels cannot be used, in one sentence; None when they can."""
    try:
        import engine.kernels.cpu._C  # noqa: F401
    except ImportError as error:
        return (
            f"the compiled CPU kernels are not installed ({error}): install a wheel, or g++ 10 or later and Python's "
            "headers, and then this package again"
        )
    return None
