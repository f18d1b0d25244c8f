"""The names of tensors in GGUF files, and in the networks that they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from engine.checkpoint.gguf.header import GgufFile, find_gguf, read_gguf
from engine.checkpoint.safetensors_header import StoredTensor, find_tensors

DECODER_NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ENCODER_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
    "cls": "classifier.dense",
    "cls.output": "classifier.out_proj",
}
SCORE = "score.weight"
_UNUSED = ("rope_freqs.weight",)
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(.+)\.(weight|bias)")


def name_in_body(file: GgufFile, stored: str) -> str | None:
    """A tensor's name in the body of the network, ``SCORE`` for the rows of a yes/no head, None for what is not needed.

    A name that is not known stays as it is, so that the model says that it has no place for it.
    """
    is_encoder = file.architecture == "bert"
    if stored in _UNUSED or (stored == "cls.output.bias" and not is_encoder):
        return None
    if stored == "cls.output.weight" and not is_encoder:
        return SCORE
    names: Mapping[str, str] = ENCODER_NAMES if is_encoder else DECODER_NAMES
    found = _NAME.fullmatch(stored)
    known = names.get(found[2]) if found else None
    if found is None or known is None:
        return stored
    layer = "" if found[1] is None else f"{'encoder.layer' if is_encoder else 'layers'}.{found[1]}."
    return f"{layer}{known}.{found[3]}"


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint in either format, by name; those of a GGUF file as the rows of bytes that they are.

    Raises ``ModelLoadError`` as ``find_tensors`` and ``read_gguf`` do.
    """
    path = None if any(folder.glob("*.safetensors")) else find_gguf(folder)
    if path is None:
        return find_tensors(folder)
    file = read_gguf(path)
    found = {}
    for stored, tensor in file.tensors.items():
        name = name_in_body(file, stored)
        if name is not None:
            rows = tensor.shape[:-1] if name != SCORE else (1,)
            found[name] = StoredTensor(tensor.file, "U8", (*rows, tensor.row_bytes), tensor.offset)
    return found
