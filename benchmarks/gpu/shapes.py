"""Model shapes, and what a pair costs in them. Weights are random and made on the device: no checkpoint is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.model_spec import HeadSpec, ModelSpec

NO_YES = (2, 3)


@dataclass(frozen=True)
class Shape:
    """A Qwen3 decoder in numbers; 0.6B and 4B as in their config.json, 8B by its published description."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab_size: int = 151_669

    @property
    def layer_parameters(self) -> tuple[int, int, int]:
        """Of one layer: key and value projections; query and output projections; MLP."""
        kv = 2 * self.kv_heads * self.head_dim * self.hidden
        q_and_o = 2 * self.heads * self.head_dim * self.hidden
        return kv, q_and_o, 3 * self.hidden * self.intermediate

    def linear_flops(self, num_tokens: int, num_reads: int) -> int:
        """Of a step: every layer for all tokens, but of the last one only keys and values; its rest for the reads."""
        kv, q_and_o, mlp = self.layer_parameters
        whole = (self.layers - 1) * (kv + q_and_o + mlp) * num_tokens
        return 2 * (whole + kv * num_tokens + (q_and_o + mlp) * num_reads)

    def config(self, max_len: int) -> dict[str, Any]:
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": max_len,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": True,
            "vocab_size": self.vocab_size,
        }

    def spec(self, max_len: int, path: str = "") -> ModelSpec:
        return ModelSpec(
            name=self.name,
            path=path,
            tokenizer_path=path,
            model_type="qwen3",
            config=self.config(max_len) | {"dtype": "bfloat16"},
            head=HeadSpec(kind="from_2_way_softmax", token_ids=NO_YES, tokens=("no", "yes")),
            causal=True,
            max_model_len=max_len,
            vocab_size=self.vocab_size,
        )


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 64, 2, 4, 2, 16, 96, vocab_size=1000),
        Shape("0.6B", 1024, 28, 16, 8, 128, 3072),
        Shape("4B", 2560, 36, 32, 8, 128, 9728),
        Shape("8B", 4096, 36, 32, 8, 128, 12_288),
    )
}
