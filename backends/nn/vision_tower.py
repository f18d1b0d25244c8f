"""The vision towers of Qwen2-VL and Qwen3-VL: pictures to rows of the residual stream, in the place of words.

After transformers' ``Qwen2VisionTransformerPretrainedModel`` and ``Qwen3VLVisionModel``. P patches of one picture, C
hidden size, N heads, H head size, F features of the MLP, D hidden size of the text network, m patches that are merged
along each side. Pictures are computed one by one, so no picture's rows depend on what else is in the step. Products and
norms are those of the device; attention, full within a picture, is torch's own everywhere: the devices' kernels are
made for the heads of texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F

from engine.backends.loading.parameters import Parameters, Rows
from engine.backends.nn.encoder_layers import ACTIVATIONS, GELU_TANH, Norm, stream_sum
from engine.errors import ModelLoadError
from engine.kernels.ops import LinearWeight
from engine.kernels.reference import rotate

NORM_EPS = 1e-6
ROPE_BASE = 10_000.0


QUICK_GELU = "quick_gelu"


@dataclass(frozen=True, kw_only=True)
class TowerNames:
    """The names of some tensors: of an MLP in a block's, of a merger in the merger's."""

    mlp_up: str = "mlp.linear_fc1"
    mlp_down: str = "mlp.linear_fc2"
    norm: str = "norm"
    up: str = "linear_fc1"
    down: str = "linear_fc2"


@dataclass(frozen=True, kw_only=True)
class VisionShape:
    """A tower in numbers, as ``vision_config`` of config.json states them; ``of`` reads Qwen3-VL's."""

    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    hidden_act: str
    patch: int
    """Side of a patch, in pixels."""
    frames: int
    """Frames in a patch; a picture is repeated so often."""
    channels: int
    merge: int
    """Patches along each side that become one row."""
    out: int
    grid: int
    """Side of the learned table of positions; 0: there is none."""
    deepstack: tuple[int, ...]
    """Layers whose outputs are added to the first layers of the text network."""
    rope_base: float
    patch_bias: bool = True
    names: TowerNames = TowerNames()

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Raises ``ModelLoadError`` about what is not computed."""
        rope = config.get("rope_parameters") or {}
        return cls(
            num_layers=config.get("depth", 27),
            hidden=config.get("hidden_size", 1152),
            intermediate=config.get("intermediate_size", 4304),
            num_heads=config.get("num_heads", 16),
            hidden_act=config.get("hidden_act", "gelu_pytorch_tanh"),
            patch=config.get("patch_size", 16),
            frames=config.get("temporal_patch_size", 2),
            channels=config.get("in_channels", 3),
            merge=config.get("spatial_merge_size", 2),
            out=config.get("out_hidden_size", 3584),
            grid=int(config.get("num_position_embeddings", 2304) ** 0.5),
            deepstack=tuple(config.get("deepstack_visual_indexes", (8, 16, 24))),
            rope_base=rope.get("rope_theta", ROPE_BASE),
        ).checked(rope)

    def checked(self, rope: Mapping[str, Any]) -> Self:
        """Itself. Raises ``ModelLoadError`` about what is not computed; ``rope``: the settings of its rotation."""
        known = (*ACTIVATIONS, QUICK_GELU)
        if self.hidden_act not in known:
            raise ModelLoadError(
                f"vision_config.hidden_act {self.hidden_act!r} is not supported; it may be {', '.join(known)}"
            )
        if rope.get("rope_type", "axial") not in ("axial", "default"):
            raise ModelLoadError(f"vision_config.rope_parameters: the type {rope['rope_type']!r} is not supported")
        if self.hidden % self.num_heads or self.head_dim % 4:
            raise ModelLoadError(
                f"vision_config: {self.num_heads} heads of a hidden size of {self.hidden} cannot rotate on two axes"
            )
        return self

    @property
    def head_dim(self) -> int:
        return self.hidden // self.num_heads

    @property
    def kernel(self) -> tuple[int, int, int, int]:
        """A patch: channels, frames, rows, columns."""
        return self.channels, self.frames, self.patch, self.patch


@dataclass(frozen=True, eq=False)
class _Grid:
    """What all layers know of one picture."""

    cos: torch.Tensor
    """(P, 1, H/2) fp32."""
    sin: torch.Tensor


class VisionTower:
    """Patches of a picture -> rows for the text network. Every worker of a group has all of it."""

    def __init__(self, params: Parameters, shape: VisionShape, prefix: str) -> None:
        """``prefix``: of the names of its tensors, with the point at its end."""
        self.shape, self.ops, self.dtype = shape, params.ops, params.dtype
        self.patch_embed = params.convolution(
            f"{prefix}patch_embed.proj", shape.hidden, shape.kernel, bias=shape.patch_bias
        )
        self.positions = params.table(f"{prefix}pos_embed.weight", shape.grid**2, shape.hidden) if shape.grid else None
        self.blocks = [_Block(params, shape, f"{prefix}blocks.{index}.") for index in range(shape.num_layers)]
        self.merger = _Merger(params, shape, f"{prefix}merger.", merges_first=False)
        self.deepstack = [
            _Merger(params, shape, f"{prefix}deepstack_merger_list.{index}.", merges_first=True)
            for index in range(len(shape.deepstack))
        ]

    def __call__(self, patches: torch.Tensor, height: int, width: int) -> list[torch.Tensor]:
        """Of one picture: (P, channels * frames * patch^2) fp32 patches in the order of ``patch_order``, and how many
        there are along its sides -> (P / m^2, D) rows, and as many for each of the first layers of the text."""
        x = self.ops.linear(patches.to(self.dtype), self.patch_embed)
        if self.positions is not None:
            weights = _bilinear(height, width, self.shape.grid, self.shape.merge)
            taps, shares = (array.to(patches.device) for array in weights)
            x = x + (F.embedding(taps, self.positions) * shares[:, :, None]).sum(1).to(x.dtype)
        grid = self._grid(height, width, patches.device)
        deeper: list[torch.Tensor] = []
        for index, block in enumerate(self.blocks):
            x = block(x, grid)
            if index in self.shape.deepstack:
                deeper.append(self.deepstack[self.shape.deepstack.index(index)](x))
        return [self.merger(x), *deeper]

    def _grid(self, height: int, width: int, device: torch.device) -> _Grid:
        shape, size = self.shape, self.shape.head_dim // 2
        frequencies = 1.0 / (shape.rope_base ** (torch.arange(0, size, 2, dtype=torch.float) / size))
        places = torch.from_numpy(np.stack(patch_order(height, width, shape.merge)))
        angles = (places[..., None].float() * frequencies).transpose(0, 1).reshape(height * width, 1, -1)
        return _Grid(angles.cos().to(device), angles.sin().to(device))


class _Block:
    """Attention and MLP, each behind a norm."""

    def __init__(self, params: Parameters, shape: VisionShape, prefix: str) -> None:
        self.ops, self.shape = params.ops, shape
        self.attention_norm = Norm(params, f"{prefix}norm1", shape.hidden, NORM_EPS)
        self.qkv = _linear(params, f"{prefix}attn.qkv", 3 * shape.hidden, shape.hidden)
        self.out = _linear(params, f"{prefix}attn.proj", shape.hidden, shape.hidden)
        self.mlp_norm = Norm(params, f"{prefix}norm2", shape.hidden, NORM_EPS)
        self.up = _linear(params, f"{prefix}{shape.names.mlp_up}", shape.intermediate, shape.hidden)
        self.down = _linear(params, f"{prefix}{shape.names.mlp_down}", shape.hidden, shape.intermediate)

    def __call__(self, x: torch.Tensor, grid: _Grid) -> torch.Tensor:
        ops, heads, size = self.ops, self.shape.num_heads, self.shape.head_dim
        qkv = ops.linear(self.attention_norm(x), self.qkv).view(len(x), 3, heads, size)
        q, k = (rotate(part.float(), grid.cos, grid.sin).to(qkv.dtype) for part in (qkv[:, 0], qkv[:, 1]))
        by_head = [part.transpose(0, 1)[None] for part in (q, k, qkv[:, 2])]
        seen = F.scaled_dot_product_attention(by_head[0], by_head[1], by_head[2])
        x = stream_sum(ops.linear_residual(seen[0].transpose(0, 1).reshape(len(x), -1), self.out, x))
        return stream_sum(ops.linear_residual(self._activated(self.mlp_norm(x)), self.down, x))

    def _activated(self, x: torch.Tensor) -> torch.Tensor:
        if self.shape.hidden_act != QUICK_GELU:
            return self.ops.linear_gelu(x, self.up, tanh=self.shape.hidden_act in GELU_TANH)
        up = self.ops.linear(x, self.up)
        return up * torch.sigmoid(1.702 * up)  # Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2


class _Merger:
    """(P, C) -> (P / m^2, D): neighbours side by side, through two layers; the norm stands before or behind that."""

    def __init__(self, params: Parameters, shape: VisionShape, prefix: str, *, merges_first: bool) -> None:
        self.ops, self.width, self.merges_first = params.ops, shape.hidden * shape.merge**2, merges_first
        names = shape.names
        self.norm = Norm(params, f"{prefix}{names.norm}", self.width if merges_first else shape.hidden, NORM_EPS)
        self.up = _linear(params, f"{prefix}{names.up}", self.width, self.width)
        self.down = _linear(params, f"{prefix}{names.down}", shape.out, self.width)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x.view(-1, self.width)) if self.merges_first else self.norm(x).view(-1, self.width)
        return self.ops.linear(self.ops.linear_gelu(x, self.up), self.down)


def _linear(params: Parameters, name: str, out_features: int, in_features: int) -> LinearWeight:
    return params.linear([Rows(name, out_features)], in_features, bias=True)


def patch_order(height: int, width: int, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """(P,) row and (P,) column of each patch, block of ``merge`` x ``merge`` after block, so that neighbours merge."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    blocks = (height // merge, merge, width // merge, merge)
    by_row, by_column = (places.reshape(blocks).swapaxes(1, 2).reshape(-1) for places in (rows, columns))
    return by_row, by_column


def patches_of(pixels: torch.Tensor, shape: VisionShape, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(height, width, 3) uint8 -> (P, channels * frames * patch^2) fp32, normalised; sides are whole blocks.

    As ``Qwen2VLImageProcessor`` does it: values over 255, minus ``mean``, over ``std``, once for each frame.
    """
    height, width, channels = pixels.shape
    rows, columns = height // shape.patch, width // shape.patch
    scaled = (pixels.float() - 255 * mean) / (255 * std)
    blocks = scaled.view(
        rows // shape.merge, shape.merge, shape.patch, columns // shape.merge, shape.merge, shape.patch, channels
    )
    ordered = blocks.permute(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, channels, 1, shape.patch, shape.patch)
    return ordered.expand(-1, -1, shape.frames, -1, -1).reshape(rows * columns, -1)


def _bilinear(height: int, width: int, side: int, merge: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, 4) rows of a ``side`` x ``side`` table around each patch, and (P, 4) how much of each; corners on corners."""
    axes = []
    for places, count in zip(patch_order(height, width, merge), (height, width), strict=True):
        at = torch.from_numpy(places).float() * (side - 1) / max(1, count - 1)
        floor = at.floor()
        taps = (floor.long()[:, None] + torch.arange(2)).clamp(0, side - 1)
        axes.append((taps, 1 - (at[:, None] - floor[:, None] - torch.arange(2)).abs()))
    (row_taps, row_shares), (column_taps, column_shares) = axes
    taps = (row_taps[:, :, None] * side + column_taps[:, None, :]).flatten(1)
    return taps, (row_shares[:, :, None] * column_shares[:, None, :]).flatten(1)
