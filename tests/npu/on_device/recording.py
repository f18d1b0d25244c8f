"""Which operators reach the device meanwhile, on the simulated one and on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch_npu
from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.log.append(func.name().partition(".")[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def recording() -> Iterator[list[str]]:
    if hasattr(torch_npu, "simulator"):
        with torch_npu.simulator.recording() as log:
            yield log
    else:
        log = []
        with _Recorder(log):
            yield log
