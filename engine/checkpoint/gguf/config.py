"""``config.json`` from a GGUF file's metadata and tensors: what the network is, and which head the file holds."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from engine.checkpoint.gguf.header import GgufFile
from engine.checkpoint.safetensors_header import bad_file
from engine.errors import ModelLoadError

MEAN, CLS, LAST = 1, 2, 3
"""Of ``pooling_type``; 4 is a reranker's, 0 none."""
NEGATIVE = ("no", "false", "0")
ROPE_SCALING = ("type", "factor", "original_context_length", "finetuned")
_DTYPE = "bfloat16"
"""What a device that prefers what the checkpoint has computes in."""


def config_of(file: GgufFile) -> dict[str, Any]:
    """Raises ``ModelLoadError`` for an architecture that is not known here, and where the file lacks what scores
    need.
    """
    kind = file.metadata.get("general.type", "model")
    if kind != "model":
        raise bad_file(
            file.path,
            f"it is of the type {kind!r} (general.type), and no model; adapters are read as safetensors, and pictures "
            "by the original checkpoint alone",
        )
    make = _ARCHITECTURES.get(file.architecture)
    if make is None:
        raise bad_file(
            file.path,
            f"its architecture {file.architecture!r} is not supported as GGUF; supported are "
            f"{', '.join(_ARCHITECTURES)}. Use the original checkpoint",
        )
    try:
        return make(file)
    except (TypeError, ValueError, ArithmeticError, AttributeError, struct.error) as error:
        raise bad_file(file.path, f"its metadata are not valid ({type(error).__name__}: {error})") from error


def labels(file: GgufFile) -> list[str]:
    """The labels of the rows of ``cls.output.weight``, where the converter named them."""
    found = file.get("classifier.output_labels", [])
    return [str(label) for label in found] if isinstance(found, list) else []


def positive_row(file: GgufFile) -> int:
    """The row of a yes/no head that stands for relevant documents: the first, unless it is called no."""
    names = labels(file)
    return 1 if names and names[0].strip().lower() in NEGATIVE else 0


def need(file: GgufFile, key: str) -> Any:
    value = file.get(key)
    if value is None:
        raise bad_file(file.path, f"its metadata lacks {file.architecture}.{key}")
    return value


def _count(file: GgufFile, key: str) -> int:
    value = need(file, key)
    if isinstance(value, list):  # one for each layer
        value = value[0] if len(set(value)) == 1 else None
    if not isinstance(value, int) or value <= 0:
        raise bad_file(file.path, f"its {file.architecture}.{key} is {value!r}; expected one number for all layers")
    return value


def _rows(file: GgufFile, tensor: str) -> int:
    if tensor not in file.tensors:
        raise bad_file(file.path, f"it holds no tensor {tensor}")
    return file.tensors[tensor].shape[0]


def _common(file: GgufFile) -> dict[str, Any]:
    hidden, heads = _count(file, "embedding_length"), _count(file, "attention.head_count")
    return {
        "hidden_size": hidden,
        "intermediate_size": _count(file, "feed_forward_length"),
        "num_hidden_layers": _count(file, "block_count"),
        "num_attention_heads": heads,
        "max_position_embeddings": _count(file, "context_length"),
        "vocab_size": _rows(file, "token_embd.weight"),
        "torch_dtype": _DTYPE,
    }


def _decoder(model_type: str, body: str, **more: Any) -> Callable[[GgufFile], dict[str, Any]]:
    def make(file: GgufFile) -> dict[str, Any]:
        config = _common(file)
        heads = config["num_attention_heads"]
        kv_heads = file.get("attention.head_count_kv", heads)
        classifies = "cls.output.weight" in file.tensors
        config |= {
            "model_type": model_type,
            "architectures": [f"{body}{'ForSequenceClassification' if classifies else 'ForCausalLM'}"],
            "num_key_value_heads": _count(file, "attention.head_count_kv") if kv_heads != heads else heads,
            "head_dim": file.get("attention.key_length") or config["hidden_size"] // heads,
            "rms_norm_eps": need(file, "attention.layer_norm_rms_epsilon"),
            "rope_theta": file.get("rope.freq_base", 10_000.0),
            "rope_scaling": _rope_scaling(file),
            "attention_bias": "blk.0.attn_q.bias" in file.tensors,
            "hidden_act": "silu",
            "tie_word_embeddings": "output.weight" not in file.tensors,
        }
        _check_rotation(file, config["head_dim"])
        if classifies:
            config |= {"num_labels": 1, "id2label": {"0": "relevant"}, "use_sep_token": False}
        return config | more

    return make


def _check_rotation(file: GgufFile, head_dim: int) -> None:
    """Raises ``ModelLoadError`` for heads that are rotated in part, or scaled by more than is understood."""
    rotated = file.get("rope.dimension_count", head_dim)
    if rotated != head_dim or file.get("attention.value_length", head_dim) != head_dim:
        raise bad_file(
            file.path, f"of {head_dim} dimensions of a head it rotates {rotated}, or values have others; not supported"
        )
    start = f"{file.architecture}.rope.scaling."
    for key, value in file.metadata.items():
        if key.startswith(start) and key.removeprefix(start) not in ROPE_SCALING and value not in (0, 1, False):
            raise bad_file(file.path, f"its {key} {value!r} is not supported")


def _rope_scaling(file: GgufFile) -> dict[str, Any] | None:
    divisors = file.tensors.get("rope_freqs.weight")
    if divisors is not None:
        if divisors.type.name != "F32":
            raise bad_file(file.path, "its rope_freqs.weight is not F32")
        with divisors.file.open("rb") as stream:
            stream.seek(divisors.offset)
            raw = stream.read(divisors.num_bytes)
        return {"rope_type": "divided", "divisors": list(struct.unpack(f"<{len(raw) // 4}f", raw))}
    kind = file.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise bad_file(file.path, f"its rope scaling {kind!r} is not supported")
    original = file.get("rope.scaling.original_context_length")
    scaling = {"rope_type": kind, "factor": need(file, "rope.scaling.factor")}
    return scaling | ({"original_max_position_embeddings": original} if original else {})


def _bert(file: GgufFile) -> dict[str, Any]:
    """BERT, RoBERTa and XLM-R share the name; tokenizer and tensors tell which."""
    tokenizer = file.metadata.get("tokenizer.ggml.model")
    is_bert = tokenizer == "bert"
    positions = _rows(file, "position_embd.weight")
    model_type, body = {"bert": ("bert", "Bert"), "gpt2": ("roberta", "Roberta")}.get(
        str(tokenizer), ("xlm-roberta", "XLMRoberta")
    )
    classifies = "cls.output.weight" in file.tensors
    pooling = file.get("pooling_type")
    if is_bert and (classifies or pooling not in (MEAN, CLS)):
        raise ModelLoadError(
            f"{file.path} is a BERT cross-encoder, and its conversion to GGUF dropped the pooler that its score is "
            "made from. Use the original checkpoint"
        )
    if not classifies and pooling not in (MEAN, CLS):
        raise ModelLoadError(f"{file.path} holds neither a classifier (cls.output.weight) nor says how it embeds")
    if classifies and "cls.weight" not in file.tensors:
        raise bad_file(file.path, "it holds cls.output.weight, but not the dense layer cls.weight before it")
    padding = file.metadata.get("tokenizer.ggml.padding_token_id", 0 if is_bert else 1)
    return {
        **_common(file),
        "model_type": model_type,
        "architectures": [f"{body}{'ForSequenceClassification' if classifies else 'Model'}"],
        "num_labels": _rows(file, "cls.output.weight") if classifies else 0,
        # Two rows of positions that no token has were cut off by the converter, and are put back by the loader.
        "max_position_embeddings": positions + (0 if is_bert else padding + 1),
        "type_vocab_size": _rows(file, "token_types.weight"),
        "layer_norm_eps": need(file, "attention.layer_norm_epsilon"),
        "hidden_act": "gelu",
        "pad_token_id": padding,
        "position_embedding_type": "absolute",
    }


_ARCHITECTURES: dict[str, Callable[[GgufFile], dict[str, Any]]] = {
    "qwen3": _decoder("qwen3", "Qwen3"),
    "qwen2": _decoder("qwen2", "Qwen2"),
    "llama": _decoder("llama", "Llama"),
    "gemma": _decoder("gemma", "Gemma", hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True),
    "bert": _bert,
}


def title(file: GgufFile) -> str:
    """The model's name as its author wrote it, or the file's without part, quantisation and ending."""
    name = file.metadata.get("general.name") or file.metadata.get("general.basename")
    return str(name) if name else plain_name(file.path.stem)


def plain_name(stem: str) -> str:
    """``Qwen3-Reranker-0.6B-Q8_0`` -> ``Qwen3-Reranker-0.6B``."""
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", stem)
    return re.sub(r"[.\-_](?:I?Q\d\w*|BF16|F16|F32|MXFP4\w*)$", "", stem, flags=re.IGNORECASE)


def base_models(file: GgufFile) -> list[str]:
    """Hub ids of the models that this one was made from."""
    found, count = [], file.metadata.get("general.base_model.count")
    for number in range(count if isinstance(count, int) and 0 < count < 100 else 0):
        url = file.metadata.get(f"general.base_model.{number}.repo_url")
        if isinstance(url, str) and (match := re.fullmatch(r"https://huggingface\.co/([\w.-]+/[\w.-]+?)/?", url)):
            found.append(match[1])
    return found
