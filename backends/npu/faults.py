"""Which errors of torch_npu mean that the device is gone for this process, so that only a new process can go on.

The runtime says so in numbers: 507xxx are faults of the device (an exception or a timeout of a core, a driver error),
107022 tells that the device was stopped. Everything else (a refused argument, a capture that failed, memory that ran
out) leaves the device as it was. Numbers and words are those of torch_npu, ``csrc/core/npu/NPUErrorCodes.h`` and
``NPUException.h``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

_LOST_NUMBERS = re.compile(r"(?<!\d)(507\d{3}|107019|107022|207004)(?!\d)")
_STATES = {"507002", "507003", "507004", "507005", "507006", "507903", "507904"}
"""Of a queue, an event or a capture: nothing is broken."""
_LOST_WORDS = (
    "FORCE STOP",
    "UCE ERROR",
    "HBM MULTI BIT ECC ERROR",
    "hbm Multi-bit ECC error",
    "suspect device mem error",
    "device mem error",
    "suspect remote error",
    "link error",
)
_OUT_OF_MEMORY = re.compile(r"out of memory|(?<!\d)(207001|207018)(?!\d)|EL0004")


def lost_code(error: BaseException) -> str | None:
    """The number or the words in ``error``, or in what caused it, that say the device is lost; None: it is not."""
    for text in _messages(error):
        numbers = [found for found in _LOST_NUMBERS.findall(text) if found not in _STATES]
        if numbers:
            return numbers[0]
        if words := next((words for words in _LOST_WORDS if words in text), None):
            return words
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had no room: torch_npu raises torch's own type, or the runtime's number as a RuntimeError."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def first_line(error: BaseException) -> str:
    """An error as part of a sentence: its type and the first line of its text, which in torch_npu go on for pages."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__


def _messages(error: BaseException) -> Iterator[str]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield str(cause)
        cause = cause.__cause__ or cause.__context__
