"""Is an NPU usable here, and if not, what is missing: the package, versions that fit, CANN, a device, or its sight.

torch_npu without CANN fails on import, and with torch's autoloading it takes ``import torch`` down with it; the package
``engine`` therefore switches autoloading off, and torch_npu is imported here and nowhere earlier.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import torch

from engine.backends.npu.faults import first_line
from engine.backends.npu.versions import (
    INSTALL_CANN,
    RECOMMENDED_CANN,
    Versions,
    cann_version,
    installed,
    version_in_files,
)
from engine.extras import pip_install

VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
SETTINGS = {
    "TASK_QUEUE_ENABLE": "1",  # launching overlaps with execution
    "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",  # one growing memory pool
    "CPU_AFFINITY_CONF": "1",  # threads stay near their card
}
"""Variables that torch_npu reads when it is imported; set unless they are."""
EXPANSION_MODE, VECTOR_CORES = "HCCL_OP_EXPANSION_MODE", "AIV"
"""Collectives on the vector cores of A2 and A3, which is also what captures of them are stable with."""
SET_ENV_PLACES = (
    "/usr/local/Ascend/ascend-toolkit/set_env.sh",
    "/usr/local/Ascend/cann/set_env.sh",
    "~/Ascend/ascend-toolkit/set_env.sh",
    "~/Ascend/cann/set_env.sh",
)


def why_unavailable() -> str | None:
    """The reason why torch_npu or its device cannot be used, with what to install, source or set; else None."""
    if importlib.util.find_spec("torch_npu") is None:
        return (
            f"torch_npu is not installed; `{pip_install('npu')}` installs it with the torch it needs, on a "
            "host that has the Ascend driver and CANN"
        )
    if problem := Versions(torch.__version__, installed("torch_npu"), "").problem():  # the import would say it worse
        return problem
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import torch_npu
    except (ImportError, OSError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"torch_npu is installed but cannot be loaded ({first_line}); {_remedy(first_line)}"
    if problem := versions().problem():
        return problem
    if torch_npu.npu.is_available():
        return None
    visible = os.environ.get(VISIBLE_DEVICES)
    if visible is not None:
        return (
            f"torch_npu sees no NPU with {VISIBLE_DEVICES}={visible!r}; `npu-smi info` lists the devices of this host"
        )
    return (
        "torch_npu sees no NPU; `npu-smi info` must list one, and a container needs --device /dev/davinci0 "
        "--device /dev/davinci_manager --device /dev/devmm_svm --device /dev/hisi_hdc"
    )


def versions() -> Versions:
    """The versions of what is loaded; torch_npu must be importable."""
    import torch_npu

    return Versions(torch.__version__, torch_npu.__version__, cann_version())


def why_cannot_open(error: RuntimeError, index: int, count: int) -> str:
    """The way out when a device is there but refuses this process."""
    visible = os.environ.get(VISIBLE_DEVICES)
    card = visible.split(",")[index].strip() if visible else str(index)
    other = f", or choose another card with {VISIBLE_DEVICES}" if count > 1 or visible else ""
    return (
        f"npu:{index} cannot be opened ({first_line(error)}): another process or container may hold it. "
        f"`npu-smi info -t proc-mem -i {card}` names who does; stop that{other}"
    )


def _remedy(message: str) -> str:
    if "Two accelerators" in message:
        return (
            "this torch is built for another accelerator; NPU hosts need the CPU build of torch, as the extra npu pins"
        )
    found = [place for place in SET_ENV_PLACES if Path(place).expanduser().exists()]
    if not found:
        return (
            f"CANN was not found: install the CANN {RECOMMENDED_CANN} toolkit and the kernels of this chip, then run "
            f"`source {SET_ENV_PLACES[0]}` (docs/ascend.md)"
        )
    if "ASCEND_HOME_PATH" not in os.environ:
        return f"run `source {found[0]}` in this shell first"
    cann = version_in_files() or "of unknown version"
    return (
        f"CANN {cann} is sourced from {os.environ['ASCEND_HOME_PATH']} but does not fit torch_npu "
        f"{installed('torch_npu')}, which is made for CANN {RECOMMENDED_CANN}: {INSTALL_CANN}"
    )
