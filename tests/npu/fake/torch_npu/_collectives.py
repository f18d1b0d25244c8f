"""``hccl`` over gloo: the name and the device of the real backend, the transport of the CPU one."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist


def _make_gloo(options: Any, _: Any) -> Any:
    if interface := os.environ.get("HCCL_SOCKET_IFNAME"):
        os.environ["GLOO_SOCKET_IFNAME"] = interface
    return dist.ProcessGroupGloo(options.store, options.group_rank, options.group_size, options.timeout)


def install() -> None:
    # "cpu" is listed because a collective unwraps its tensors like any other operator.
    dist.Backend.register_backend("hccl", _make_gloo, extended_api=True, devices=["npu", "cpu"])
