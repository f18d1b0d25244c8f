"""The device tensor: a wrapper that behaves as if its memory were not the host's."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from torch_npu._state import Allocation, state

ND, FRACTAL_NZ = 2, 29

_TAKES_NZ = {"npu::npu_quant_matmul", "aten::mm", "aten::addmm", "aten::_to_copy", "npu::npu_format_cast"}
_KEEPS_NZ = {"aten::t", "aten::transpose", "aten::detach", "aten::alias", "aten::view"}


class NpuTensor(torch.Tensor):
    """Shape, strides and dtype are real; the memory is ``raw``, a CPU tensor that only kernels see."""

    raw: torch.Tensor
    allocation: Allocation
    npu_format: int

    @staticmethod
    def __new__(cls, raw: torch.Tensor, allocation: Allocation | None = None, npu_format: int = ND) -> NpuTensor:
        if raw.dtype == torch.float64:
            raise RuntimeError("the device has no double: float64 tensors cannot be made on it")
        if raw.dtype == torch.bfloat16 and state.is_310p:
            raise RuntimeError(f"{state.soc} has no bfloat16")
        with torch.inference_mode(False):  # torch cannot make views of wrappers that are inference tensors
            tensor = torch.Tensor._make_wrapper_subclass(
                cls,
                raw.shape,
                strides=raw.stride(),
                storage_offset=raw.storage_offset(),
                dtype=raw.dtype,
                device=torch.device("npu", state.thread.current_device),
            )
        tensor.raw = raw
        tensor.allocation = allocation or Allocation(raw.untyped_storage().nbytes())
        tensor.npu_format = npu_format
        return tensor

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"NpuTensor(shape={tuple(self.shape)}, dtype={self.dtype}, device='{self.device}')"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    """Run one operator on the device."""
    name = func.name().partition(".")[0]
    state.check_alive()
    if _is_composite(func.name()):
        return func.decompose(*args, **kwargs)  # under inference_mode torch hands these over whole
    leaves, spec = tree_flatten((args, kwargs))
    inputs = [leaf for leaf in leaves if isinstance(leaf, NpuTensor)]
    if state.log is not None:
        state.log.append(name)
    if name == "aten::copy_":
        return _copy(args[0], args[1], bool(args[2]) if len(args) > 2 else kwargs.get("non_blocking", False))
    if name == "aten::_to_copy" and _is_cpu(kwargs.get("device")):
        return _to_host(args[0], kwargs)
    if state.waiting_graph is not None and name not in ("aten::detach", "aten::alias"):
        raise RuntimeError(f"{name} behind a replay that waits for its update is not simulated: update first")
    _refuse_mixing(func, leaves, inputs)
    _refuse_format(name, inputs)
    if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"):
        state.finish()
    raws = [leaf.raw if isinstance(leaf, NpuTensor) else _on_host(leaf) for leaf in leaves]
    raw_args, raw_kwargs = tree_unflatten(raws, spec)
    if name == "aten::gelu":
        raw_kwargs = {"approximate": "tanh"}  # documented: torch's own gelu ignores `approximate` on this device
    with state.kernel():
        result = func(*raw_args, **raw_kwargs)
    if state.graph is not None:
        state.graph.record(func, raw_args, raw_kwargs, result)
    outputs = _wrap(result, inputs)
    if name == "npu::npu_format_cast":
        outputs.npu_format = args[1]
    elif name in _KEEPS_NZ:
        outputs.npu_format = args[0].npu_format
    return outputs


@cache
def _is_composite(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")


def _wrap(result: Any, inputs: list[NpuTensor]) -> Any:
    leaves, spec = tree_flatten(result)
    by_storage = {tensor.raw.untyped_storage().data_ptr(): tensor for tensor in inputs if tensor.raw.numel()}
    wrapped = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            owner = by_storage.get(leaf.untyped_storage().data_ptr())
            same = next((tensor for tensor in inputs if tensor.raw is leaf), None)
            if same is not None and same.shape != leaf.shape:
                raise RuntimeError("an operation that changes a tensor's shape in place is not simulated")
            wrapped.append(same if same is not None else NpuTensor(leaf, None if owner is None else owner.allocation))
        else:
            wrapped.append(leaf)
    return tree_unflatten(wrapped, spec)


def _is_cpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def _on_host(leaf: Any) -> Any:
    return torch.device("cpu") if isinstance(leaf, torch.device) else leaf


def _refuse_mixing(func: Any, leaves: list[Any], inputs: list[NpuTensor]) -> None:
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and not isinstance(leaf, NpuTensor) and leaf.dim() > 0:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"npu:{state.thread.current_device} and {leaf.device}! (in {func})"
            )
    if len({tensor.device for tensor in inputs}) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same NPU (in {func})")


def _refuse_format(name: str, inputs: list[NpuTensor]) -> None:
    special = [tensor for tensor in inputs if tensor.npu_format != ND]
    if special and name not in _TAKES_NZ | _KEEPS_NZ:
        raise RuntimeError(f"{name} does not take a tensor in the internal format {special[0].npu_format}")


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool) -> torch.Tensor:
    if isinstance(target, NpuTensor) and isinstance(source, NpuTensor):
        with state.kernel():
            target.raw.copy_(source.raw)
        if state.graph is not None:
            state.graph.record(torch.ops.aten.copy_.default, (target.raw, source.raw), {}, target.raw)
    elif isinstance(target, NpuTensor):
        _refuse_capture("a copy from the host")
        if source.device.type != "cpu":
            raise RuntimeError(f"cannot copy from {source.device}")
        if not non_blocking:
            state.finish()  # CopyKernelOpApi.cpp: aclrtSynchronizeStream comes before aclrtMemcpy
        target.raw.copy_(source)
        if non_blocking:
            _watch(source)
    else:
        assert isinstance(source, NpuTensor)
        _fetch(target, source, non_blocking)
    return target


def _to_host(source: NpuTensor, kwargs: dict[str, Any]) -> torch.Tensor:
    if source.npu_format != ND:
        raise RuntimeError("cast to the format ND before copying to the host")
    target = torch.empty(source.shape, dtype=source.dtype)
    _fetch(target, source, bool(kwargs.get("non_blocking", False)))
    dtype = kwargs.get("dtype")
    return target if dtype is None else target.to(dtype)


def _fetch(target: torch.Tensor, source: NpuTensor, non_blocking: bool) -> None:
    """Device to host. Without blocking the target holds nonsense until the host synchronises."""
    _refuse_capture("a copy to the host")
    if not non_blocking:
        state.finish()
        target.copy_(source.raw)
        return
    value = source.raw.clone()
    target.fill_(float("nan") if target.is_floating_point() else -1)
    state.enqueue(lambda: target.copy_(value))


def _watch(source: torch.Tensor) -> None:
    """The device reads pinned memory later: until the host synchronises it must not change."""
    before = source.clone()

    def check() -> None:
        if not torch.equal(source, before):
            raise RuntimeError("a pinned buffer was written while the device was still to read it")

    state.enqueue(check)


def _refuse_capture(what: str) -> None:
    if state.graph is not None:
        raise RuntimeError(f"{what} cannot be captured in a graph")
