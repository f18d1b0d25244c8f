"""Registers torch_npu's operators under its own schema text, and the few aten kernels a device must have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.library import Library

from torch_npu._state import state
from torch_npu._tensor import NpuTensor, dispatch

SCHEMAS = Path(__file__).parents[2] / "schemas" / f"{state.version}.txt"
_libraries: list[Library] = []  # a Library that is collected takes its operators along
_KERNELS: dict[str, Callable[..., Any]] = {}


def schema_lines() -> list[str]:
    lines = SCHEMAS.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """The implementation of the operator of the same name."""
    _KERNELS[function.__name__] = function
    return function


def _on_device_only(name: str, function: Callable[..., Any] | None) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not state.thread.inside_device:
            raise RuntimeError(f"Could not run 'npu::{name}' with arguments from the 'CPU' backend")
        if function is None:
            raise RuntimeError(f"npu::{name} is defined but not simulated")
        how = state.broken.get(name)
        for argument, value in kwargs.items():
            how = how or (state.broken.get(f"{name}:{argument}") if value is not None else None)
        if how == "error":
            raise RuntimeError(f"call aclnn of {name} failed, error code is 161002\n[ERROR] the simulator was told so")
        if how == "lost":
            state.lost = "507015"
            state.check_alive()
        return _spoilt(function(*args, **kwargs)) if how == "wrong" else function(*args, **kwargs)

    return run


def _spoilt(result: Any) -> Any:
    """The first output computed wrongly."""
    first = result[0] if isinstance(result, tuple) else result
    first.copy_(first.flip(-1))
    return result


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> NpuTensor:
    return NpuTensor(torch.empty(size, dtype=dtype))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> NpuTensor:
    return NpuTensor(torch.empty_strided(size, stride, dtype=dtype))


def _arange(start: Any, end: Any, step: Any = 1, *, dtype: Any = None, **_: Any) -> NpuTensor:
    return NpuTensor(torch.arange(start, end, step, dtype=dtype))


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    return dispatch(torch.ops.aten.copy_.default, (target, source, non_blocking), {})


def install() -> None:
    from torch_npu import _attention, _dense, _quantised  # noqa: F401  (they register their kernels)

    npu = Library("npu", "DEF")
    for line in schema_lines():
        name = npu.define(line)
        npu.impl(name, _on_device_only(name, _KERNELS.get(name)), "CompositeExplicitAutograd")
    aten = Library("aten", "IMPL")
    aten.impl("empty.memory_format", _empty, "PrivateUse1")
    aten.impl("empty_strided", _empty_strided, "PrivateUse1")
    for name in ("arange", "arange.start", "arange.start_step"):
        aten.impl(
            name, (lambda end, **kwargs: _arange(0, end, **kwargs)) if name == "arange" else _arange, "PrivateUse1"
        )
    aten.impl("_copy_from", _copy_from, "PrivateUse1")
    _libraries.extend([npu, aten])
