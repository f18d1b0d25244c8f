"""The compiled module (``csrc/bindings.cpp``). Addresses are of fp32 data unless said otherwise; 0 means none."""

import enum

import numpy as np
import torch

class Kind(enum.Enum):
    """Arithmetic of a linear layer."""

    F32 = 0
    I16 = 1
    I8 = 2
    BF16 = 3
    I8R = 4
    """int8 in rotated groups of 128."""
    I16R = 5
    """16-bit activations and 8-bit weights in such groups."""

class Dtype(enum.Enum):
    F32 = 0
    BF16 = 1
    F16 = 2

class Gate(enum.Enum):
    SILU = 0
    GELU = 1
    GELU_TANH = 2

_Rows = tuple[int, int, int, int]
"""Address, row stride, rows, columns."""
_Heads = tuple[int, int, int]
"""Address, row stride, head stride."""

def available_isas() -> list[str]: ...

class Activation:
    rows: int
    cols: int
    kind: Kind

class AttentionPlan: ...

def attention_plan(
    q_starts: np.ndarray,
    q_lens: np.ndarray,
    own_starts: np.ndarray,
    own_lens: np.ndarray,
    context_ids: np.ndarray,
    context_indptr: np.ndarray,
    context_ranges: np.ndarray,
    kv_capacity: int,
    num_queries: int,
    causal: bool,
    /,
) -> AttentionPlan:
    """All arrays are int64 and flat."""

class Runtime:
    isa: str
    num_threads: int
    lanes: int
    tile_rows: int
    i8_bits: int
    task_limits: tuple[int, int]
    """Bytes of fp32 results, and columns, of the largest task of a matrix product."""
    cached_bytes: int
    def __init__(self, num_threads: int, isa: str, pin: bool) -> None: ...
    def trim(self) -> None: ...
    def pack(self, kind: Kind, x: _Rows, /) -> Activation: ...
    def unpack(self, a: Activation, /) -> torch.Tensor: ...
    def rms_norm(self, kind: Kind, x: _Rows, weight: int, eps: float, /) -> Activation: ...
    def layer_norm(self, x: _Rows, weight: int, bias: int, eps: float, /) -> torch.Tensor: ...
    def linear(self, a: Activation, weight: LinearWeight, /) -> torch.Tensor: ...
    def linear_add(self, a: Activation, weight: LinearWeight, residual: int, stride: int, /) -> None: ...
    def linear_gate(
        self, a: Activation, weight: LinearWeight, gate: Gate, has_up: bool, out: Kind, /
    ) -> Activation: ...
    def qk_norm_rope(
        self,
        qkv: _Rows,
        q_weight: int,
        k_weight: int,
        eps: float,
        cos: int,
        sin: int,
        positions: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        /,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``positions`` is the address of int64."""
    def attention(
        self,
        kind: Kind,
        q: _Heads,
        k: _Heads,
        v: _Heads,
        k_cache: _Heads,
        v_cache: _Heads,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scale: float,
        plan: AttentionPlan,
        /,
    ) -> Activation: ...
    def ceiling(self, kind: Kind, iterations: int, /) -> float:
        """Multiply-adds a second, on registers alone, on all threads."""

class LinearWeight:
    out_features: int
    in_features: int
    num_bytes: int
    def __init__(self, runtime: Runtime, out_features: int, in_features: int, kind: Kind, /) -> None: ...
    def load_rows(self, start: int, rows: int, src: int, stride: int, dtype: Dtype, /) -> None: ...
    def keep_groups(self, group: int, levels: list[float], has_offsets: bool, /) -> None: ...
    def load_groups(
        self,
        start: int,
        rows: int,
        codes: int,
        codes_stride: int,
        scales: int,
        offsets: int,
        scales_stride: int,
        group: int,
        /,
    ) -> None: ...
    def load_bias(self, start: int, count: int, src: int, /) -> None: ...
