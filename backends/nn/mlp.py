"""The MLP of a decoder's layer: gated, for all tokens alike, or a few of many experts for each token.

T tokens, D hidden size, F features of a gated MLP, E experts of which a token has k. In a group of workers each has a
run of the features, of every expert too (``parallel.py``).
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from engine.backends.loading.parameters import Parameters, Rows
from engine.backends.nn.decoder_shape import DecoderShape
from engine.backends.nn.parallel import SummedLinear
from engine.kernels.ops import Activation, LinearWeight, Ops

Stream = tuple[torch.Tensor | None, torch.Tensor]


class MLP(Protocol):
    def onto(self, x: Activation, residual: torch.Tensor) -> Stream:
        """(delta, residual) as ``Ops.linear_residual`` has it."""
        ...

    def product(self, x: Activation) -> torch.Tensor:
        """(T, D) -> (T, D), added to nothing."""
        ...


def gated(ops: Ops, x: Activation, gate_up: LinearWeight, activation: str) -> Activation:
    """(T, D) -> (T, F): act(gate) * up."""
    if activation == "silu":
        return ops.linear_swiglu(x, gate_up)
    return ops.linear_geglu(x, gate_up, tanh=activation != "gelu")


class GatedMLP:
    def __init__(self, params: Parameters, shape: DecoderShape, name: str) -> None:
        self.ops, self.hidden_act = params.ops, shape.hidden_act
        features = shape.intermediate
        if shape.fused:
            halves = [Rows(f"{name}.gate_up_proj", features, half * features, 2 * features) for half in (0, 1)]
        else:
            halves = [Rows(f"{name}.{part}", features) for part in ("gate_proj", "up_proj")]
        gate_up = [rows.part(params.tp_group, features) for rows in halves]
        self.gate_up = params.linear(gate_up, shape.hidden, bias=shape.mlp_bias)
        self.down = SummedLinear(params, f"{name}.down_proj", shape.hidden, features, bias=shape.mlp_bias)

    def onto(self, x: Activation, residual: torch.Tensor) -> Stream:
        return self.down(gated(self.ops, x, self.gate_up, self.hidden_act), residual)

    def product(self, x: Activation) -> torch.Tensor:
        return self.down.product(gated(self.ops, x, self.gate_up, self.hidden_act))


class Experts:
    """The router's softmax over all experts gives the k of a token their weights."""

    def __init__(self, params: Parameters, shape: DecoderShape, name: str) -> None:
        assert shape.experts is not None
        self.ops, self.tp_group, self.shape, self.hidden_act = (
            params.ops,
            params.tp_group,
            shape.experts,
            shape.hidden_act,
        )
        features = self.shape.intermediate
        self.router = params.table(f"{name}.gate.weight", self.shape.num_experts, shape.hidden)
        columns = None if params.tp_group.size == 1 else params.tp_group.part(features)
        self.experts = []
        for index in range(self.shape.num_experts):
            prefix = f"{name}.experts.{index}"
            parts = [Rows(f"{prefix}.{part}", features) for part in ("gate_proj", "up_proj")]
            gate_up = params.linear([rows.part(params.tp_group, features) for rows in parts], shape.hidden)
            down = params.linear([Rows(f"{prefix}.down_proj", shape.hidden)], features, columns=columns)
            self.experts.append((gate_up, down))

    def onto(self, x: Activation, residual: torch.Tensor) -> Stream:
        return self.product(x), residual

    def product(self, x: Activation) -> torch.Tensor:
        """Tokens of one expert are computed together; the host waits to know which they are."""
        plain = self.ops.unpack(x)
        chances = F.linear(plain, self.router.to(plain.dtype)).float().softmax(-1)
        weights, chosen = chances.topk(self.shape.num_per_token, dim=-1)
        if self.shape.normed:
            weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(plain)
        for index in chosen.unique().tolist():
            rows, choices = (chosen == index).nonzero(as_tuple=True)
            gate_up, down = self.experts[index]
            found = self.ops.linear(gated(self.ops, plain[rows], gate_up, self.hidden_act), down)
            out.index_add_(0, rows, found * weights[rows, choices].to(found.dtype).unsqueeze(1))
        return out if self.tp_group.size == 1 else self.tp_group.all_reduce_sum(out)
