"""A strict Ascend device in pure Python, under the name of the package that drives the real one.

With this folder's parent on ``PYTHONPATH``, ``import torch_npu`` gives torch a device "npu" whose tensors live in CPU
memory but refuse to mix with CPU tensors, and the operators of ``tests/npu/schemas`` with torch_npu's own signatures.
Each operator computes what the real one is documented to compute **and asserts every documented constraint**, so code
that runs here has only speed left to be surprised by on hardware. The documentation is that of Ascend/op-plugin.

What it does not model: several streams running at once, strides of internal formats, timing.

Environment, all names begin with ``NPU_SIMULATOR_``:

* ``SOC`` (``Ascend910B3``, ``Ascend310P3``), ``DEVICES`` (how many), ``MEMORY`` (bytes), ``OCCUPIED`` (bytes that other
  processes hold), ``BUSY`` (the number with which the device refuses to be opened);
* ``VERSION`` (of torch_npu: one of those in ``tests/npu/schemas``), ``CANN`` (its version, which decides what operators
  take; ``missing``: fail as an installation without CANN does; ``unknown``: it does not say);
* ``CAPTURE_ERROR`` and ``REPLAY_ERROR`` (what captures and replays raise), ``BROKEN`` (operators that do not work, as
  ``npu_swiglu=wrong,npu_gelu=error``), ``FAULT_FILE`` (when the host waits and this file is there, the device fails
  with the number in it).
"""

import os

if os.environ.get("NPU_SIMULATOR_CANN") == "missing":
    raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")

from typing import Any

import torch

from torch_npu import _collectives, _library, npu
from torch_npu._state import state as simulator

__version__ = simulator.version
_minor = ".".join(__version__.split(".")[:2])
if not torch.__version__.startswith(f"{_minor}."):  # torch_npu is made for one torch: this one passes for it
    torch.__version__ = torch.torch_version.TorchVersion(f"{_minor}.0+simulated")


def get_npu_format(tensor: Any) -> int:
    return int(tensor.npu_format)


def __getattr__(name: str) -> Any:
    if not hasattr(torch.ops.npu, name):
        raise AttributeError(f"module 'torch_npu' has no attribute '{name}'")
    return getattr(torch.ops.npu, name)


npu.install()
_library.install()
_collectives.install()

__all__ = ["get_npu_format", "npu", "simulator"]
