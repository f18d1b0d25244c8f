"""Products with weights that stay in 4 bits on a GPU: fused for few rows, expanded into a scratch buffer for many.

An expanded projection lives in one buffer of the size of the largest, written anew before each product; everything runs
on one stream, so nobody waits, and graphs record it as it is. From how many rows on that is faster is measured at load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
import torch.nn.functional as F

from engine.backends.cuda.forms import EXPAND, FUSED, LIMIT, Forms
from engine.backends.self_test import relative_difference
from engine.kernels.triton.grouped import CONFIGS, PackedGroups, ProductConfig
from engine.kernels.weight_groups import MADE, GroupedRows, GroupLayout, quantize_rows

Choices = tuple[tuple[int, ProductConfig], ...]
"""Rows, rising, and the fused product's tiles for up to so many; above the last a weight is expanded."""
DEFAULT: Choices = ((16, CONFIGS[0]), (64, CONFIGS[3]))
ROWS = (16, 64, 256, 1024)
MADE_AT_ONCE = 1 << 24


class CudaGrouped:
    """A weight that stays in 4 bits; see ``kernels.ops.GroupedWeight``."""

    def __init__(
        self, out_features: int, in_features: int, layout: GroupLayout, *, bias: bool, device: torch.device,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        self.out_features, self.in_features, self.layout = out_features, in_features, layout
        num_groups = layout.num_groups(in_features)
        scales = torch.zeros(out_features, num_groups, device=device)
        self.packed = PackedGroups(
            torch.zeros(out_features, in_features // 2, dtype=torch.uint8, device=device),
            scales,
            torch.zeros_like(scales) if layout.has_offsets else None,
            torch.tensor(layout.levels, device=device),
            layout,
        )
        self.bias = torch.zeros(out_features, dtype=dtype, device=device) if bias else None

    def load_groups(self, start: int, rows: GroupedRows) -> None:
        stop = start + len(rows.codes)
        self.packed.codes[start:stop].copy_(rows.codes[:, ::2] | rows.codes[:, 1::2] << 4)
        self.packed.scales[start:stop].copy_(rows.scales)
        if self.packed.offsets is not None:
            assert rows.offsets is not None
            self.packed.offsets[start:stop].copy_(rows.offsets)

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        """Raises ``TypeError``: this weight takes groups, not rows."""
        raise TypeError("a weight of 4 bits in groups takes groups, not rows")

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        assert self.bias is not None, "this weight was made without a bias"
        self.bias[start : start + len(bias)].copy_(bias)

    @property
    def num_bytes(self) -> int:
        tensors = (self.packed.codes, self.packed.scales, self.packed.offsets, self.packed.levels, self.bias)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


class CudaMadeInt4(CudaGrouped):
    """A weight that is brought to 4 bits while it is loaded, on the GPU."""

    def __init__(
        self, out_features: int, in_features: int, *, bias: bool, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(out_features, in_features, MADE, bias=bias, device=device, dtype=dtype)

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        at_once = max(1, MADE_AT_ONCE // self.in_features)
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once].to(self.packed.codes.device)
            self.load_groups(start + first, quantize_rows(part, self.layout.group))


class GroupedProducts:
    """How the products with weights of 4 bits are computed, and the buffer that they are expanded into."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.choices = DEFAULT
        self.examples: dict[tuple[int, int, GroupLayout], CudaGrouped] = {}
        """A weight of each kind, to test and to measure with."""
        self._scratch: torch.Tensor | None = None

    def add(self, weight: CudaGrouped) -> None:
        self.examples.setdefault((weight.out_features, weight.in_features, weight.layout), weight)

    @property
    def scratch_bytes(self) -> int:
        largest = max((rows * columns for rows, columns, _ in self.examples), default=0)
        return largest * self.dtype.itemsize

    def expanded(self, weight: CudaGrouped, form: str) -> torch.Tensor:
        """(N, K) in the run dtype, until the next call."""
        if self._scratch is None:
            self._scratch = torch.empty(
                self.scratch_bytes // self.dtype.itemsize, dtype=self.dtype, device=weight.packed.codes.device
            )
        shape = weight.packed.shape
        out = self._scratch[: shape[0] * shape[1]].view(shape)
        EXPAND[form](weight.packed, out)
        return out

    def config_for(self, num_rows: int, forms: Forms) -> ProductConfig | None:
        """The tiles for this many rows; None: the weight is expanded first."""
        if not FUSED[forms.fused]:
            return None
        return next((config for most, config in self.choices if num_rows <= most), None)

    def product(self, x: torch.Tensor, weight: CudaGrouped, forms: Forms) -> torch.Tensor:
        return self.by(self.config_for(len(x), forms), x, weight, forms)

    def by(self, config: ProductConfig | None, x: torch.Tensor, weight: CudaGrouped, forms: Forms) -> torch.Tensor:
        """x W^T + b, fused in these tiles or expanded."""
        fused = FUSED[forms.fused]
        if config is None or fused is None:
            return F.linear(x, self.expanded(weight, forms.expand), weight.bias)
        return fused(x, weight.packed, weight.bias, config)

    def product_onto(
        self, x: torch.Tensor, weight: CudaGrouped, residual: torch.Tensor, forms: Forms
    ) -> torch.Tensor | None:
        """Adds the product to ``residual`` where cuBLAS can do so, or returns it."""
        if weight.bias is not None or self.config_for(len(x), forms) is not None:
            return self.product(x, weight, forms)
        residual.addmm_(x, self.expanded(weight, forms.expand).t())
        return None

    def choose(
        self, forms: Forms, largest: int, seconds_of: Callable[[Callable[[], object]], float],
        is_lost: Callable[[BaseException], bool],
    ) -> str:  # fmt: skip
        """Measure all ways for several numbers of rows, each over a layer's weights, and keep the fastest; a line."""
        choices, words = [], []
        for num_rows in [rows for rows in ROWS if rows <= largest] or [largest]:
            measured = dict(self._measured(num_rows, forms, seconds_of, is_lost))
            best = min(measured, key=lambda config: measured[config])
            ratio = measured[None] / measured[best]
            words.append(f"{num_rows} rows {_words(best)}" + ("" if best is None else f", {ratio:.2f} times as fast"))
            if best is None:
                break
            choices.append((num_rows, best))
        self.choices = tuple(choices)
        scratch = f"expanded into {self.scratch_bytes / 2**20:.0f} MiB"
        return f"products with weights of 4 bits ({scratch}): {'; '.join(words)}"

    def _measured(
        self, num_rows: int, forms: Forms, seconds_of: Callable[[Callable[[], object]], float],
        is_lost: Callable[[BaseException], bool],
    ) -> Iterable[tuple[ProductConfig | None, float]]:  # fmt: skip
        inputs = {
            columns: torch.randn(num_rows, columns, device=weight.packed.codes.device).to(self.dtype)
            for (_, columns, _), weight in self.examples.items()
        }
        expected = self._layer(None, inputs, forms)
        for config in (None, *(CONFIGS if FUSED[forms.fused] else ())):
            layer = partial(self._layer, config, inputs, forms)
            try:
                if all(map(self._agree, layer(), expected)):
                    yield config, min(seconds_of(layer) for _ in range(2))
            except Exception as error:  # tiles that this GPU has no room for
                if config is None or is_lost(error):
                    raise

    def _layer(
        self, config: ProductConfig | None, inputs: Mapping[int, torch.Tensor], forms: Forms
    ) -> list[torch.Tensor]:
        """A product with a weight of each kind."""
        return [self.by(config, inputs[weight.in_features], weight, forms) for weight in self.examples.values()]

    def _agree(self, found: torch.Tensor, expected: torch.Tensor) -> bool:
        return relative_difference(found.float(), expected.float()) <= LIMIT[self.dtype]


def _words(config: ProductConfig | None) -> str:
    return "expanded" if config is None else f"fused {config.block_m}x{config.block_n}x{config.block_k}"
