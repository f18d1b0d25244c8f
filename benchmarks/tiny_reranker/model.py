"""A lean Qwen3 decoder for training: parameter names and arithmetic of ``Qwen3ForCausalLM``, one score per row.

The part of the prompt before the document is computed once for all documents of a query. Rows are padded on the right,
so that a causal mask is enough. In the last layer only the token that is read out has a query and an MLP.

Shapes: B rows, Q queries, L tokens, P tokens of the shared part, H hidden, N heads, K key-value heads, D head size.
"""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class TinyConfig:
    vocab_size: int = 16_000
    hidden_size: int = 320
    intermediate_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 2
    num_key_value_heads: int = 2
    head_dim: int = 128
    rope_theta: float = 100_000_000.0
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 8192

    def to_hf(self) -> dict[str, object]:
        """``config.json`` of an original Qwen3-Reranker of this shape."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **asdict(self),
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rope_scaling": None,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
        }


def rotary(positions_L: Tensor, config: TinyConfig) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    angles = positions_L.float()[:, None] * config.rope_theta**-exponents
    angles_LD = torch.cat((angles, angles), dim=-1)
    return angles_LD.cos(), angles_LD.sin()


def rotate(x_BNLD: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
    first, second = x_BNLD.chunk(2, dim=-1)
    return x_BNLD * cos_LD + torch.cat((-second, first), dim=-1) * sin_LD


KeyValue = tuple[Tensor, Tensor]


class Attention(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        heads, kv_heads, dim = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, heads * dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * dim, bias=False)
        self.o_proj = nn.Linear(heads * dim, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(dim, eps=config.rms_norm_eps)

    def key_value(self, x_BLH: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> KeyValue:
        """Keys and values of shape (B, K, L, D)."""
        shape = (*x_BLH.shape[:2], self.config.num_key_value_heads, self.config.head_dim)
        keys = self.k_norm(self.k_proj(x_BLH).view(shape)).transpose(1, 2)
        return rotate(keys, cos_LD, sin_LD), self.v_proj(x_BLH).view(shape).transpose(1, 2)

    def forward(self, x_BLH: Tensor, cos: Tensor, sin: Tensor, seen: KeyValue, mask: Tensor | None) -> Tensor:
        """Attention of ``x`` to ``seen``; ``mask`` is None where ``seen`` is ``x`` itself, causally."""
        rows, length = x_BLH.shape[:2]
        shape = (rows, length, self.config.num_attention_heads, self.config.head_dim)
        q = rotate(self.q_norm(self.q_proj(x_BLH).view(shape)).transpose(1, 2), cos, sin)
        out = F.scaled_dot_product_attention(q, *seen, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = Mlp(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def key_value(self, x_BLH: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> KeyValue:
        return self.self_attn.key_value(self.input_layernorm(x_BLH), cos_LD, sin_LD)

    def forward(self, x_BLH: Tensor, cos: Tensor, sin: Tensor, seen: KeyValue, mask: Tensor | None) -> Tensor:
        x = x_BLH + self.self_attn(self.input_layernorm(x_BLH), cos, sin, seen, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """The part whose parameters are named ``model.*`` in a checkpoint."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class TinyReranker(nn.Module):
    def __init__(self, config: TinyConfig, yes: int, no: int) -> None:
        super().__init__()
        self.config, self.yes, self.no = config, yes, no
        self.model = Body(config)

    @property
    def layers(self) -> list[Layer]:
        return [layer for layer in self.model.layers if isinstance(layer, Layer)]

    def heads(self, ids_QP: Tensor) -> list[KeyValue]:
        """Keys and values of every layer for the part of the prompt that all documents of a query share."""
        x = self.model.embed_tokens(ids_QP)
        cos, sin = rotary(torch.arange(ids_QP.shape[1]), self.config)
        seen = []
        for index, layer in enumerate(self.layers):
            seen.append(layer.key_value(x, cos, sin))
            if index + 1 < len(self.model.layers):
                x = layer(x, cos, sin, seen[-1], None)
        return seen

    def tails(self, heads: list[KeyValue], owner_B: Tensor, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Logit of "yes" minus logit of "no" after the last token of each row; row b follows head ``owner_B[b]``."""
        start, length = heads[0][0].shape[2], ids_BL.shape[1]
        x = self.model.embed_tokens(ids_BL)
        cos, sin = rotary(torch.arange(start, start + length), self.config)
        mask = torch.ones(length, start + length, dtype=torch.bool).tril(start)
        for index, (layer, head) in enumerate(zip(self.layers, heads, strict=True)):
            own = layer.key_value(x, cos, sin)
            seen = (torch.cat((head[0][owner_B], own[0]), 2), torch.cat((head[1][owner_B], own[1]), 2))
            if index + 1 == len(self.model.layers):
                last = lengths_B - 1
                x, mask = x[torch.arange(len(x)), last][:, None], mask[last][:, None, None]
                cos, sin = cos[last][:, None, None], sin[last][:, None, None]
            x = layer(x, cos, sin, seen, mask)
        weight = self.model.embed_tokens.weight
        return self.model.norm(x[:, 0]) @ (weight[self.yes] - weight[self.no])
