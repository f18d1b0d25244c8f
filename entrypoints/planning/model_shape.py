"""A model in numbers, from its config.json alone: weights, work of a token, keys and values, activations.

What its tensors are, the family's own file says (``backends/measure/outline.py``); here is arithmetic on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.checkpoint.config_names import usual_config
from engine.checkpoint.families import RANKERS, BodySizes, body_sizes, is_causal, position_limit
from engine.config import BYTES_PER_NUMBER
from engine.entrypoints.planning.stored import KeptGroups, StoredWeights, stored_weights
from engine.errors import ConfigError

Reads = Literal["pairs", "lists", "texts"]
"""What the model computes: pairs; documents of a query together (listwise); texts by themselves (late interaction)."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """All that ``engine plan`` needs to know of a model."""

    sizes: BodySizes
    max_len: int
    """Tokens of the longest pair that the body has positions for."""
    stored_dtype: str
    stored: StoredWeights | None
    """How the linear layers are quantised in the files."""
    causal: bool
    reads: Reads
    linear_params: int
    """Numbers in the linear layers."""
    qkv_params: tuple[int, ...]
    """Of them, those to queries, keys and values, by layer; ``layer_params``: all of a layer."""
    layer_params: tuple[int, ...]
    other_params: int
    """Numbers in embeddings, tables and norms."""
    products: tuple[tuple[int, int], ...]
    """Outputs and inputs of the matrix products of one layer."""
    kv_numbers: int
    """Keys and values of one token in all layers; 0 for a model that keeps none."""

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path | None = None) -> ModelShape:
        """Raises ``ConfigError`` or ``ModelLoadError`` for a model that this engine could not load either.

        ``folder``: of config.json, beside which a quantised checkpoint's settings or GGUF file may be.
        """
        config = usual_config("the model", config)
        model_type = str(config.get("model_type"))
        sizes, max_len = body_sizes(model_type, config), position_limit(model_type, config)
        if max_len is None:
            raise ConfigError("config.json does not say max_position_embeddings.", param="model")
        from engine.backends.measure.outline import outline

        tensors = outline(model_type, config)
        stated = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
        kv = tensors.kv_shape
        return cls(
            sizes=sizes,
            max_len=max_len,
            stored_dtype=stated if stated in BYTES_PER_NUMBER else "float32",
            stored=stored_weights(config, tensors.linear_sizes, folder),
            causal=is_causal(model_type, config),
            reads=_reads(config),
            linear_params=tensors.linear_numbers,
            qkv_params=tensors.qkv_numbers,
            layer_params=tensors.layer_numbers,
            other_params=tensors.other_numbers,
            products=tensors.layer_products,
            kv_numbers=2 * kv.num_layers * kv.num_kv_heads * kv.head_dim if kv else 0,
        )

    @property
    def params(self) -> int:
        """All numbers of the body."""
        return self.linear_params + self.other_params

    def wider_share(self, num_layers: int) -> float:
        """The share of the linear layers that ``Capabilities.wider_parts`` names, with this number of first layers."""
        return (sum(self.layer_params[:num_layers]) + sum(self.qkv_params[num_layers:])) / max(1, self.linear_params)

    @property
    def token_flop(self) -> float:
        """Operations of the matrix products for one computed token.

        The last layer makes keys and values only, except at read tokens; it is whole where many tokens are read.
        """
        if self.reads != "pairs":
            return 2.0 * self.linear_params
        sizes = self.sizes
        last = 2 * sizes.hidden * sizes.num_kv_heads * sizes.head_dim
        return 2.0 * (self.linear_params * (sizes.num_layers - 1) / sizes.num_layers + last)

    def attention_flop(self, keys: float) -> float:
        """Floating-point operations of attention for one token that sees ``keys`` keys, in all layers."""
        return 4.0 * self.sizes.num_layers * self.sizes.num_heads * self.sizes.head_dim * keys

    def weight_bytes(
        self,
        dtype: str,
        quantization: str | None,
        *,
        keeps_narrow: bool = False,
        keeps_groups: KeptGroups | None = None,
    ) -> int:
        """Bytes of the weights on the device. ``keeps_narrow``: matrices stay as narrow as the file has them;
        ``keeps_groups``: as in ``Capabilities``; None: nothing stays as the file has it."""
        stored = BYTES_PER_NUMBER[self.stored_dtype]
        if self.stored is not None and self.stored.table_bytes is not None:
            stored = self.stored.table_bytes
        table = min(BYTES_PER_NUMBER[dtype], stored) if keeps_narrow else BYTES_PER_NUMBER[dtype]
        linear = BYTES_PER_NUMBER[quantization] if quantization else table
        if self.stored is not None:  # what is dequantised is fp32, not the dtype that the file states
            each = linear if quantization else BYTES_PER_NUMBER[dtype]
            linear = self.stored.bytes_per_weight(each, linear, quantization, keeps_groups or {})
        return round(self.linear_params * linear) + self.other_params * round(table)

    def kv_bytes(self, dtype: str) -> int:
        """Bytes of the keys and values of one token in all layers; 0 for a model that keeps none."""
        return self.kv_numbers * round(BYTES_PER_NUMBER[dtype])

    def activation_bytes(self, dtype: str) -> int:
        """Bytes of one token at the widest point of a layer: the stream and its copies, gate, up and their product."""
        return 3 * (self.sizes.hidden + self.sizes.intermediate) * round(BYTES_PER_NUMBER[dtype])


def _reads(config: Mapping[str, Any]) -> Reads:
    architecture = (config.get("architectures") or [""])[0]
    task = RANKERS.get(str(architecture), ("", ""))[1]
    return "lists" if task == "ForRanking" else "texts" if task == "Model" else "pairs"
