"""ACL graphs: calls recorded once and run again on the same memory, with host lists replaced by ``update``.

Strict where a real graph would hang, read stale memory or silently use old lengths; after torch_npu/npu/graphs.py.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from torch_npu._state import state

_UPDATABLE = {
    "npu::npu_fused_infer_attention_score": ("actual_seq_lengths", "actual_seq_lengths_kv"),
    "npu::npu_fused_infer_attention_score_v2": ("actual_seq_qlen", "actual_seq_kvlen"),
}
_NO_GRAPH = ("npu::npu_fusion_attention",)


class _GraphDispatchMode(TorchDispatchMode):
    """On while a graph is captured; it puts a wait for an event before each operator that can be updated.

    A capture that fails at its end leaves it on, so that the next such operator waits for an event of no graph.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().partition(".")[0] in _UPDATABLE and state.graph is None:
            raise RuntimeError("this waits for ever: the dispatch mode of a failed capture is still on")
        return func(*args, **(kwargs or {}))


class NPUGraph:
    def __init__(self) -> None:
        self.graph_dispatch_mode = _GraphDispatchMode()
        self.auto_dispatch_capture = False
        self.calls: list[list[Any]] = []
        self.updatable: list[list[Any]] = []
        self.captured = False
        self.updated = False
        self.in_flight = False

    def record(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = func.name().partition(".")[0]
        if name in _NO_GRAPH:
            raise RuntimeError(f"{name} is documented as unsupported in graphs")
        call = [func, args, dict(kwargs), result]
        self.calls.append(call)
        if name in _UPDATABLE and self.auto_dispatch_capture:
            self.updatable.append(call)

    def update(self, cpu_update_input: list[dict[str, Any]]) -> None:
        if not self.auto_dispatch_capture:
            raise RuntimeError(
                "The current graph configuration does not support update,"
                "Try to capture by setting auto_dispatch_capture=True during capture"
            )
        if self.in_flight and state.waiting_graph is not self:
            raise RuntimeError("update while an earlier replay may still read the old lengths: synchronise first")
        if len(cpu_update_input) == 1:
            cpu_update_input = cpu_update_input * len(self.updatable)
        if len(cpu_update_input) != len(self.updatable):
            raise RuntimeError(f"{len(self.updatable)} operators to update, {len(cpu_update_input)} inputs given")
        for call, update in zip(self.updatable, cpu_update_input, strict=True):
            unknown = set(update) - set(_UPDATABLE[call[0].name().partition(".")[0]])
            if unknown:
                raise RuntimeError(f"update would ignore {sorted(unknown)}")
            call[2].update(update)
        self.updated = True
        if state.waiting_graph is self:
            state.waiting_graph = None
            self._run()

    def replay(self) -> None:
        """Each operator that can be updated waits for an event of the update, before or behind the replay."""
        if not self.captured:
            raise RuntimeError("replay of a graph that was never captured")
        if state.replay_error is not None:
            raise RuntimeError(state.replay_error)
        state.check_alive()
        self.in_flight = True
        if self.updatable and not self.updated:
            state.waiting_graph = self
        else:
            self._run()

    def _run(self) -> None:
        self.updated = False
        with state.kernel():
            for func, args, kwargs, result in self.calls:
                _overwrite(result, func(*args, **kwargs))
        state.enqueue(self._finished)

    def _finished(self) -> None:
        self.in_flight = False

    def poison(self) -> None:
        """Capturing computes nothing on a device: what the calls returned is undefined until the first replay."""
        for _, args, kwargs, result in self.calls:
            inputs = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}
            for leaf in _tensors(result):
                if leaf.untyped_storage().data_ptr() not in inputs and leaf.is_floating_point():
                    leaf.fill_(float("nan"))

    def reset(self) -> None:
        self.calls, self.updatable, self.captured = [], [], False

    def pool(self) -> tuple[int, int]:
        return (0, id(self))


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


def _overwrite(old: Any, new: Any) -> None:
    for target, value in zip(_tensors(old), _tensors(new), strict=True):
        if target.untyped_storage().data_ptr() != value.untyped_storage().data_ptr():
            target.copy_(value)


class graph:
    """A class, and with the order of the real one: what fails at the end leaves the stream and the mode as they are."""

    def __init__(
        self,
        npu_graph: NPUGraph,
        pool: Any = None,
        stream: Any = None,
        auto_dispatch_capture: bool = False,
        capture_error_mode: str = "global",
    ) -> None:
        from torch_npu.npu import Stream
        from torch_npu.npu import stream as current

        npu_graph.auto_dispatch_capture = auto_dispatch_capture
        self.npu_graph, self.capture_error_mode = npu_graph, capture_error_mode
        self.stream_context = current(stream or Stream())

    def __enter__(self) -> None:
        state.finish()
        self.stream_context.__enter__()
        if self.npu_graph.auto_dispatch_capture:
            self.npu_graph.graph_dispatch_mode.__enter__()
        state.graph = self.npu_graph
        state.graph_thread = threading.get_ident() if self.capture_error_mode == "thread_local" else None

    def __exit__(self, *error: Any) -> None:
        state.graph = None
        if state.capture_error is not None:
            raise RuntimeError(state.capture_error)
        if error[0] is None:
            self.npu_graph.poison()
            self.npu_graph.captured = True
        if self.npu_graph.auto_dispatch_capture:
            self.npu_graph.graph_dispatch_mode.__exit__(*error)
        self.stream_context.__exit__(*error)


def graph_pool_handle() -> tuple[int, int]:
    return (0, 1)
