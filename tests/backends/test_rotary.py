"""Rotary tables equal those of transformers, for every scaling that is supported."""

from __future__ import annotations

import pytest
import torch

from engine.backends.nn.rotary import rope_settings, rope_tables
from engine.errors import ModelLoadError

CPU = torch.device("cpu")
SCALINGS = {
    "default": {},
    "linear": {"factor": 2.5},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 1024},
    "yarn_tuned": {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "beta_fast": 16, "beta_slow": 2,
        "attention_factor": 0.7, "truncate": False,
    },
    "yarn_mscale": {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "mscale": 0.8,
        "mscale_all_dim": 0.5,
    },
    "llama3": {
        "factor": 8.0, "original_max_position_embeddings": 1024, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("style", ["transformers 4", "transformers 5"])
def test_tables_equal_transformers(kind, style) -> None:
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    scaling = {"rope_type": kind} | SCALINGS[kind]
    shape = {"head_dim": 64, "hidden_size": 128, "num_attention_heads": 2, "max_position_embeddings": 4096}
    if style == "transformers 4":
        config = shape | {"rope_theta": 1e6, "rope_scaling": scaling if kind != "default" else None}
    else:
        config = shape | {"rope_parameters": scaling | {"rope_theta": 1e6}}
    cos, sin = rope_tables(config, 64, 3000, CPU)
    module = Qwen3RotaryEmbedding(Qwen3Config(**shape, rope_parameters=scaling | {"rope_theta": 1e6}))
    want_cos, want_sin = module(torch.zeros(1), torch.arange(3000)[None])
    torch.testing.assert_close(cos, want_cos[0, :, :32], atol=1e-6, rtol=0)
    torch.testing.assert_close(sin, want_sin[0, :, :32], atol=1e-6, rtol=0)


def test_old_spelling_of_the_type() -> None:
    assert rope_settings({"rope_scaling": {"type": "linear", "factor": 2}})["rope_type"] == "linear"


def test_unsupported_scaling_says_what_is_supported() -> None:
    with pytest.raises(
        ModelLoadError,
        match=r"'spiral' is not supported; supported are default, divided, dynamic, linear, llama3, longrope",
    ):
        rope_tables({"rope_scaling": {"rope_type": "spiral"}}, 64, 8, CPU)
    with pytest.raises(ModelLoadError, match="'longrope' needs 'max_position_embeddings'"):
        rope_tables({"rope_scaling": {"rope_type": "longrope"}}, 64, 8, CPU)
    with pytest.raises(ModelLoadError, match="'linear' needs 'factor'"):
        rope_tables({"rope_scaling": {"rope_type": "linear"}}, 64, 8, CPU)
    with pytest.raises(ModelLoadError, match="partial_rotary_factor"):
        rope_tables({"partial_rotary_factor": 0.5}, 64, 8, CPU)
