"""The self-test of an NPU where weights stay in 4 bits: the operator against the same weights dequantised."""

from __future__ import annotations

from functools import partial

import torch

from engine.backends.npu.trial_inputs import PRODUCT_ROWS, TrialInputs
from engine.backends.self_test import Trial
from engine.kernels.npu.grouped import GROUPED, NpuGrouped, fits
from engine.kernels.weight_groups import MADE, GroupedRows

FEW = 64
"""Rows that differ; the others repeat them."""


class Int4Trials(TrialInputs):
    """The products of a layer whose weights the operator takes."""

    def product(self) -> Trial | None:
        """Tries the operator; None where it takes none of the layer's weights."""
        cases = [self._case(num_in, num_out) for num_in, num_out in self.products() if fits(num_out, num_in, MADE)]
        if not cases:
            return None

        def run(name: str) -> torch.Tensor:
            return torch.cat([GROUPED[name](x, weight).float().flatten() for x, weight, _ in cases])

        return Trial(
            "4-bit product",
            ", ".join(f"{weight.in_features} x {weight.out_features}" for _, weight, _ in cases),
            {name: partial(run, name) for name in self.allowed(GROUPED, self.ops.forms.grouped)},
            lambda: torch.cat([(x.float() @ wide).flatten() for x, _, wide in cases]),
            self.limit,
        )

    def _case(self, num_in: int, num_out: int) -> tuple[torch.Tensor, NpuGrouped, torch.Tensor]:
        """Rows, the weight, and what it stands for, (in, out) in fp32."""
        weight = NpuGrouped(num_out, num_in, MADE, bias=False, device=self.device, dtype=self.dtype)
        codes = torch.randint(0, 16, (FEW, num_in), generator=self._generator, dtype=torch.uint8)
        scales = (torch.rand(FEW, MADE.num_groups(num_in), generator=self._generator) + 0.5) / (8 * num_in**0.5)
        few = GroupedRows(codes, scales.to(self.dtype).float(), None)
        places = torch.arange(num_out) % FEW
        for first in range(0, num_out, 1024):
            weight.load_groups(first, few.picked(places[first : first + 1024]))
        wide = few.dequantized(MADE).t().to(self.device)[:, places.to(self.device)]
        return self.random(PRODUCT_ROWS, num_in), weight, wide
