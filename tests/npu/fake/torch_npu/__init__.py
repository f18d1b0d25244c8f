"""A strict Ascend device in pure Python, under the name of the package that drives the real one.

With this folder's parent on ``PYTHONPATH``, ``import torch_npu`` gives torch a device "npu" whose tensors live in CPU
memory but refuse to mix with CPU tensors, and the operators of ``npu_op_schemas.txt`` with torch_npu's own signatures.
Each operator computes what the real one is documented to compute **and asserts every documented constraint**, so code
that runs here has only speed left to be surprised by on hardware. The documentation is that of Ascend/op-plugin.

What it does not model: several streams running at once, strides of internal formats, timing.

Environment: ``NPU_SIMULATOR_SOC`` (``Ascend910B3``, ``Ascend310P3``), ``NPU_SIMULATOR_DEVICES``,
``NPU_SIMULATOR_MEMORY`` (bytes), ``NPU_SIMULATOR_CANN=missing`` (fail as an installation without CANN does),
``NPU_SIMULATOR_CAPTURE_ERROR`` and ``NPU_SIMULATOR_REPLAY_ERROR`` (what captures and replays raise),
``NPU_SIMULATOR_BROKEN`` (``npu_swiglu=wrong,npu_gelu=error``: operators that do not work),
``NPU_SIMULATOR_FAULT_FILE`` (when the host waits and this file is there, the device fails with the number in it).
"""

import os

if os.environ.get("NPU_SIMULATOR_CANN") == "missing":
    raise ImportError("libhccl.so: cannot open shared object file: No such file or directory")

from typing import Any

import torch

from torch_npu import _collectives, _library, npu
from torch_npu._state import state as simulator

__version__ = "2.13.0+simulated"


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
