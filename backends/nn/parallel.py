"""Layers of which each worker of a group has a part (Megatron-LM: Shoeybi et al. 2019, arXiv 1909.08053).

* **By rows** (``Rows.part``): a worker has the rows of a projection that make its heads, or its features of the MLP. It
  computes them from the whole input and tells nobody.
* **By columns** (``SummedLinear``): the projection that follows has the columns for just these heads or features. Its
  product is a term of the whole, which the group sums: once after attention, once after the MLP.
* **By words** (``WordTable``): a worker has a run of the embedding's rows, and zeros for all other words.

So the residual stream is whole, and the same, on every worker; norms and the score head are computed by all of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.backends.loading.parameters import Parameters, Rows
from engine.kernels.ops import Activation


class SummedLinear:
    """A projection onto the residual stream, from inputs of which each worker has a part."""

    def __init__(self, params: Parameters, name: str, out_features: int, in_features: int, *, bias: bool) -> None:
        self.ops, self.tp_group = params.ops, params.tp_group
        is_first = self.tp_group.index == 0
        columns = None if self.tp_group.size == 1 else self.tp_group.part(in_features)
        self.weight = params.linear([Rows(name, out_features)], in_features, columns=columns, bias=bias and is_first)
        if bias and not is_first:  # it is one term of the sum
            params.skip(f"{name}.bias")

    def __call__(self, x: Activation, residual: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(delta, residual) as ``Ops.linear_residual`` has it."""
        if self.tp_group.size == 1:
            return self.ops.linear_residual(x, self.weight, residual)
        return self.product(x), residual

    def product(self, x: Activation) -> torch.Tensor:
        """(T, in) -> (T, out), added to nothing."""
        found = self.ops.linear(x, self.weight)
        return found if self.tp_group.size == 1 else self.tp_group.all_reduce_sum(found)


class WordTable:
    """(T,) token ids -> (T, D) rows of the embedding, in the dtype of the table."""

    def __init__(self, params: Parameters, name: str, num_words: int, size: int) -> None:
        self.tp_group = params.tp_group
        self.own = self.tp_group.part(num_words)
        self.table = params.table(name, num_words, size, rows=self.own)

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        if self.tp_group.size == 1:
            return F.embedding(token_ids, self.table)
        local_ids = token_ids - self.own.start
        elsewhere = (local_ids < 0) | (local_ids >= len(self.own))
        found = F.embedding(local_ids.masked_fill(elsewhere, 0), self.table)
        return self.tp_group.all_reduce_sum(found.masked_fill(elsewhere.unsqueeze(1), 0))
