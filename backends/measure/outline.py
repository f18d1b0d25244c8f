"""A model without its weights: which tensors it would have, from its config.json alone.

The family's own file builds the model, as for loading, but on torch's ``meta`` device, where tensors have shapes and
take no memory. So whatever plans with these numbers plans with what will be loaded, for every family there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from engine.backends.kv_cache import KVShape
from engine.backends.loading.parameters import Parameters
from engine.backends.models import find_family
from engine.checkpoint.families import body_sizes, is_causal
from engine.kernels.ops import Ops
from engine.model_spec import HeadSpec, ModelSpec, VisionSpec

_FIRST_LAYER = re.compile(r"\.0\.")
"""In the names of the first layer's tensors."""
_ANY_PICTURES = VisionSpec(
    block=1, min_pixels=1, max_pixels=1, mean=(0, 0, 0), std=(1, 1, 1), before=(), behind=(), image_id=0, max_images=1
)
"""How pictures are read does not matter to the weights of what reads them."""


@dataclass(frozen=True)
class OutlinedWeight:
    """Implements ``LinearWeight``: a matrix of which only the shape is known."""

    out_features: int
    in_features: int
    num_biases: int
    layer: int | None = None
    """Its number; None: in no layer."""
    makes_qkv: bool = False
    """Whether queries, keys or values come out of it."""

    @property
    def num_numbers(self) -> int:
        return self.out_features * self.in_features + self.num_biases

    @property
    def num_bytes(self) -> int:
        return 0

    def load_rows(self, start: int, rows: torch.Tensor) -> None:
        raise AssertionError("an outline takes no weights")

    def load_bias(self, start: int, bias: torch.Tensor) -> None:
        raise AssertionError("an outline takes no weights")


class OutlineOps:
    """The part of ``Ops`` that building a model needs: linear weights of which only the shape is known."""

    def __init__(
        self, weights: list[OutlinedWeight] | None = None, layer: int | None = None, *, makes_qkv: bool = False
    ) -> None:
        self.weights = [] if weights is None else weights
        self._layer, self._makes_qkv = layer, makes_qkv

    def of_layer(self, index: int) -> OutlineOps:
        return OutlineOps(self.weights, index)

    def of_qkv(self) -> OutlineOps:
        return OutlineOps(self.weights, self._layer, makes_qkv=True)

    def new_linear(self, out_features: int, in_features: int, *, bias: bool = False) -> OutlinedWeight:
        num_biases = out_features if bias else 0
        weight = OutlinedWeight(out_features, in_features, num_biases, self._layer, self._makes_qkv)
        self.weights.append(weight)
        return weight


@dataclass(frozen=True)
class Outline:
    """The tensors of a body; its score head, a few rows, is left out."""

    linear_numbers: int
    """Of all linear layers: what a quantisation makes smaller."""
    qkv_numbers: tuple[int, ...]
    """Of the products to queries, keys and values, by layer; ``layer_numbers``: of all products."""
    layer_numbers: tuple[int, ...]
    other_numbers: int
    """Of embeddings, tables and norms."""
    linear_sizes: Mapping[str, int]
    """Numbers of each linear weight, by its name without ``.weight``."""
    layer_products: tuple[tuple[int, int], ...]
    """Outputs and inputs of each matrix product of one layer."""
    kv_shape: KVShape | None
    """Keys and values of a token; None for a model that keeps none."""


def outline(model_type: str, config: Mapping[str, Any]) -> Outline:
    """Raises ``ConfigError`` or ``ModelLoadError`` for a model that could not be loaded either."""
    sizes, meta = body_sizes(model_type, config), torch.device("meta")
    spec = ModelSpec(
        name=model_type,
        path="config.json",
        tokenizer_path="",
        model_type=model_type,
        config=dict(config),
        head=HeadSpec(kind="classifier"),
        causal=is_causal(model_type, config),
        vision=_ANY_PICTURES if "vision_config" in config else None,
        max_model_len=1,
        vocab_size=sizes.vocab_size,
    )
    ops = OutlineOps()
    params = Parameters(cast(Ops, ops), device=meta, dtype=torch.float32, tensors=None)
    model = find_family(model_type).build(spec, params)
    of_layer = {
        id(part.weight): (part.weight.out_features, part.weight.in_features)
        for name, parts in params.parts.items()
        for part in parts
        if _FIRST_LAYER.search(f".{name}.") and "visual." not in name
    }
    return Outline(
        linear_numbers=sum(weight.num_numbers for weight in ops.weights),
        qkv_numbers=_by_layer([weight for weight in ops.weights if weight.makes_qkv], sizes.num_layers),
        layer_numbers=_by_layer(ops.weights, sizes.num_layers),
        other_numbers=params.num_bytes // params.dtype.itemsize,
        linear_sizes={
            name: sum(part.rows.count for part in parts) * parts[0].in_features for name, parts in params.parts.items()
        },
        layer_products=tuple(of_layer.values()),
        kv_shape=model.kv_shape,
    )


def _by_layer(weights: Sequence[OutlinedWeight], num_layers: int) -> tuple[int, ...]:
    """The numbers of the weights that are in each layer."""
    return tuple(sum(each.num_numbers for each in weights if each.layer == layer) for layer in range(num_layers))
