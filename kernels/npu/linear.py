"""Weights of linear layers in the layouts that the matrix units like.

Plain weights stay as torch has them. Quantised ones (W8A8) are int8 with one fp32 scale a row, (in, out), in the
internal format FRACTAL_NZ: the cube unit reads 16 x 32 tiles, and a weight that lies tiled already saves the unpacking
each call. Plain weights gain little on A2 and A3 (the tiling is hidden behind the larger transfers), so they are not
converted there; 310P unpacks slowly and gets all of them converted. The conversion needs
``torch.npu.config.allow_internal_format``, which the backend sets.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch_npu

logger = logging.getLogger(__name__)
ND, FRACTAL_NZ = 2, 29
INT8_MAX = 127.0
QUANT_MATMUL_MAX_FEATURES = 65535


@dataclass(frozen=True, eq=False)
class QuantizedActivation:
    """int8 rows and what one unit of each is worth."""

    values: torch.Tensor
    """(T, in) int8."""
    scales: torch.Tensor
    """(T,) fp32."""


def tiled(weight: torch.Tensor) -> torch.Tensor | None:
    """A contiguous weight in FRACTAL_NZ; None, with a line in the log, where the conversion is refused."""
    try:
        return torch_npu.npu_format_cast(weight, FRACTAL_NZ)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        logger.warning("a weight of %s stays in ND: npu_format_cast failed (%s)", tuple(weight.shape), reason)
        return None


class NpuLinear:
    """(out, in) in the compute dtype."""

    def __init__(
        self, out_features: int, in_features: int, *, bias: bool, device: torch.device, dtype: torch.dtype, tile: bool
    ) -> None:
        self.out_features = out_features
        self.in_features = in_features
        self.weight = torch.empty(out_features, in_features, dtype=dtype, device=device)
        self.bias = torch.zeros(out_features, dtype=dtype, device=device) if bias else None
        self._wants_tiles, self._is_tiled = tile, False
        self._missing_rows = out_features

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        self.weight[start : start + len(rows)].copy_(rows.to(self.weight.dtype))
        self._missing_rows -= len(rows)
        if self._wants_tiles and self._missing_rows == 0 and (laid := tiled(self.weight)) is not None:
            self._is_tiled, self.weight = True, laid

    def untile(self) -> None:
        """Back to ND."""
        if self._is_tiled:
            self._is_tiled, self.weight = False, torch_npu.npu_format_cast(self.weight, ND)

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        assert self.bias is not None, "this weight was made without a bias"
        self.bias[start : start + len(bias)].copy_(bias.to(self.bias.dtype))

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


class NpuInt8Linear:
    """W8A8: each output row has its own scale, so rows are quantised as they are read and no wide copy exists."""

    def __init__(
        self, out_features: int, in_features: int, *, bias: bool, device: torch.device, tile: bool = True
    ) -> None:
        if max(out_features, in_features) > QUANT_MATMUL_MAX_FEATURES:
            raise ValueError(
                f"npu_quant_matmul takes up to {QUANT_MATMUL_MAX_FEATURES} features, not {out_features} x {in_features}"
            )
        self.out_features = out_features
        self.in_features = in_features
        self.weight = torch.empty(out_features, in_features, dtype=torch.int8, device=device)
        """(out, in) while rows come in, then (in, out), in FRACTAL_NZ unless ``tile`` is False."""
        self._wants_tiles, self._is_tiled = tile, False
        self.scales = torch.empty(out_features, dtype=torch.float32, device=device)
        self.bias = torch.zeros(out_features, dtype=torch.float32, device=device) if bias else None
        self._missing_rows = out_features

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        wide = rows.float()
        scales = (wide.abs().amax(1) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
        self.weight[start : start + len(rows)].copy_((wide / scales[:, None]).round().to(torch.int8))
        self.scales[start : start + len(rows)].copy_(scales)
        self._missing_rows -= len(rows)
        if self._missing_rows == 0:
            self.weight = self.weight.t().contiguous()
            if self._wants_tiles and (laid := tiled(self.weight)) is not None:
                self._is_tiled, self.weight = True, laid

    def untile(self) -> None:
        """Back to ND."""
        if self._is_tiled:
            self._is_tiled, self.weight = False, torch_npu.npu_format_cast(self.weight, ND)

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        assert self.bias is not None, "this weight was made without a bias"
        self.bias[start : start + len(bias)].copy_(bias.float())

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + self.scales.nbytes + (0 if self.bias is None else self.bias.nbytes)
