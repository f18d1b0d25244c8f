"""The devices, one row each: the one list of them, and what must be known of a device before torch is imported.

A new device is a row here, a folder ``backends/NAME`` (``backend.py`` with the contract of ``backends/base.py``, and
``data_sheets.py`` for ``engine plan``) and a folder of kernels. Everything else asks the row or the backend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from engine.errors import DeviceError


@dataclass(frozen=True, kw_only=True)
class DeviceRow:
    """One kind of device."""

    name: str
    """What ``--device`` calls it; its backend is ``backends/NAME/backend.py``."""
    ray_resource: str
    """What a Ray cluster calls one of them."""
    is_host: bool = False
    """The machine's own processor: workers take cores and share one memory, not a device each."""
    visible_devices: str = ""
    """The variable that says which of a machine's devices a process may see; empty: there is none."""
    status_command: tuple[str, ...] = ()
    """The maker's own tool that lists devices and drivers, for bug reports."""
    packages: tuple[str, ...] = ()
    """What it needs beside torch, for bug reports."""
    variables: tuple[str, ...] = ()
    """How the names of environment variables begin that change what it does, for bug reports."""


DEVICES: tuple[DeviceRow, ...] = (
    DeviceRow(
        name="npu",
        ray_resource="NPU",
        visible_devices="ASCEND_RT_VISIBLE_DEVICES",
        status_command=("npu-smi", "info"),
        packages=("torch_npu",),
        variables=("ASCEND_", "NPU_", "HCCL_"),
    ),
    DeviceRow(
        name="cuda",
        ray_resource="GPU",
        visible_devices="CUDA_VISIBLE_DEVICES",
        status_command=(
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.total,compute_cap",
            "--format=csv,noheader",
        ),
        packages=("triton",),
        variables=("CUDA_", "NVIDIA_", "NCCL_"),
    ),
    DeviceRow(name="cpu", ray_resource="CPU", is_host=True, variables=("OMP_", "MKL_", "KMP_")),
)
"""In the order in which ``--device auto`` tries them."""
HOST = next(row for row in DEVICES if row.is_host)

if TYPE_CHECKING:
    DeviceName = str
else:
    DeviceName = Literal[("auto", *sorted(row.name for row in DEVICES))]
"""A value of ``--device``. Settings are checked against it when they are read."""


def device_row(name: str) -> DeviceRow:
    """The row of that name; raises ``DeviceError`` with the names that there are."""
    row = next((row for row in DEVICES if row.name == name), None)
    if row is None:
        known = ", ".join(sorted(row.name for row in DEVICES))
        raise DeviceError(f"there is no backend named {name!r}; known are {known} and auto")
    return row
