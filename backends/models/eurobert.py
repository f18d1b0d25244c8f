"""EuroBERT (Boizard et al. 2025, arXiv 2503.05500): Llama's layers, tokens that see all of their pair, BERT's head."""

from __future__ import annotations

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder import Decoder
from engine.backends.nn.decoder_shape import DecoderShape
from engine.backends.nn.encoder_head import HeadNames
from engine.model_spec import ModelSpec

CHECKPOINT_PREFIX = "model."


def build(spec: ModelSpec, params: Parameters) -> Decoder:
    config = spec.config
    has_bias = config.get("attention_bias", False)
    eps = config.get("rms_norm_eps", 1e-5)
    shape = DecoderShape.of(spec, qkv_bias=has_bias, o_bias=has_bias, mlp_bias=config.get("mlp_bias", False), eps=eps)
    decoder = Decoder(spec, shape, params, head=HeadNames(dense="dense", out="classifier", activation="gelu"))
    params.skip("lm_head.")
    return decoder
