"""A model in numbers, from its config.json alone: weights, work of a token, keys and values, activations.

The same numbers as the loader finds in the files (a test compares them), without the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.checkpoint.families import FAMILIES, supported
from engine.errors import ConfigError

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int16": 2, "int8": 1, "fp8": 1, "w8a8": 1}
GATED = ("qwen3", "qwen2", "llama", "mistral", "gemma", "modernbert", "new", "gte")
"""Model types whose MLP has a gate beside its up projection."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    model_type: str
    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_positions: int
    """Rows of a table of positions; 0 where positions are rotations."""
    max_len: int
    stored_dtype: str
    gated: bool
    causal: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ModelShape:
        """Raises ``ConfigError`` for a model that this engine does not know, or a config without its sizes."""
        model_type = str(config.get("model_type"))
        if model_type not in FAMILIES:
            raise ConfigError(
                f"model_type {model_type} is not supported. These are: {supported()}.", param="model"
            ) from None
        try:
            return cls._of(model_type, config)
        except KeyError as missing:
            raise ConfigError(f"config.json does not say {missing.args[0]}.", param="model") from None

    @classmethod
    def _of(cls, model_type: str, config: Mapping[str, Any]) -> ModelShape:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        usual_head = 256 if model_type == "gemma" else hidden // heads
        is_causal = FAMILIES[model_type].causal
        stated = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
        has_table = not is_causal and model_type not in ("modernbert", "new", "gte")
        positions = config.get("max_position_embeddings", 512)
        return cls(
            model_type=model_type,
            num_layers=config["num_hidden_layers"],
            hidden=hidden,
            intermediate=config["intermediate_size"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or usual_head,
            vocab_size=config["vocab_size"],
            num_positions=positions if has_table else 0,
            max_len=positions - FAMILIES[model_type].position_offset,
            stored_dtype=stated if stated in ITEM_BYTES else "float32",
            gated=model_type in GATED,
            causal=is_causal,
        )

    @property
    def kv_params(self) -> int:
        """Of the two projections that make keys and values, in one layer."""
        return 2 * self.hidden * self.num_kv_heads * self.head_dim

    @property
    def layer_params(self) -> int:
        attention = 2 * self.hidden * self.num_heads * self.head_dim + self.kv_params
        return attention + (3 if self.gated else 2) * self.hidden * self.intermediate

    @property
    def linear_params(self) -> int:
        return self.num_layers * self.layer_params

    @property
    def embedding_params(self) -> int:
        return (self.vocab_size + self.num_positions) * self.hidden

    @property
    def products(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of the matrix products of one layer."""
        attended = self.num_heads * self.head_dim
        return {
            "qkv": (attended + 2 * self.num_kv_heads * self.head_dim, self.hidden),
            "o": (self.hidden, attended),
            "up": ((2 if self.gated else 1) * self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }

    @property
    def token_flop(self) -> float:
        """Of the products, for one computed token. The last layer makes keys and values only, except at read tokens."""
        return 2.0 * ((self.num_layers - 1) * self.layer_params + self.kv_params)

    def attention_flop(self, keys: float) -> float:
        """Of one token that sees ``keys`` keys."""
        return 4.0 * self.num_layers * self.num_heads * self.head_dim * keys

    def weight_bytes(self, dtype: str, quantization: str | None, *, keeps_narrow: bool = False) -> int:
        """On the device. ``keeps_narrow``: matrices stay as narrow as the file has them."""
        stored = ITEM_BYTES[self.stored_dtype]
        table = min(ITEM_BYTES[dtype], stored) if keeps_narrow else ITEM_BYTES[dtype]
        linear = ITEM_BYTES[quantization] if quantization else table
        return self.linear_params * linear + self.embedding_params * table

    def kv_bytes(self, dtype: str) -> int:
        """Of one token in all layers; 0 for a model that keeps nothing."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * ITEM_BYTES[dtype] if self.causal else 0

    def activation_bytes(self, dtype: str) -> int:
        """Of one token at the widest place of a layer: the stream and its copies, gate, up and their product."""
        return 3 * (self.hidden + self.intermediate) * ITEM_BYTES[dtype]
