"""Is an NPU usable here, and if not, which of the four things is missing: the package, CANN, a device, or its sight.

torch_npu without CANN fails on import, and with torch's autoloading it takes ``import torch`` down with it; the package
``engine`` therefore switches autoloading off, and torch_npu is imported here and nowhere earlier.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

VISIBLE_DEVICES = "ASCEND_RT_VISIBLE_DEVICES"
SET_ENV_PLACES = (
    "/usr/local/Ascend/ascend-toolkit/set_env.sh",
    "/usr/local/Ascend/cann/set_env.sh",
    "~/Ascend/ascend-toolkit/set_env.sh",
    "~/Ascend/cann/set_env.sh",
)


def why_unavailable() -> str | None:
    """None if torch_npu works and sees a device; else what to install, source or set."""
    if importlib.util.find_spec("torch_npu") is None:
        return (
            "torch_npu is not installed; `pip install 'rerank-engine[npu]'` installs it with the torch it needs, on a "
            "host that has the Ascend driver and CANN"
        )
    try:
        import torch_npu
    except (ImportError, OSError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return f"torch_npu is installed but cannot be loaded ({first_line}); {_cure(first_line)}"
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


def _cure(message: str) -> str:
    if "Two accelerators" in message:
        return (
            "this torch is built for another accelerator; NPU hosts need the CPU build of torch, as the extra npu pins"
        )
    found = [place for place in SET_ENV_PLACES if Path(place).expanduser().exists()]
    if not found:
        return (
            "CANN was not found: install the CANN toolkit and the kernels of this chip, then run "
            f"`source {SET_ENV_PLACES[0]}` (docs/ascend.md)"
        )
    if "ASCEND_HOME_PATH" not in os.environ:
        return f"run `source {found[0]}` in this shell first"
    return (
        f"CANN is sourced from {os.environ['ASCEND_HOME_PATH']} but does not fit this torch_npu: compare the versions "
        "with those in docs/ascend.md"
    )
