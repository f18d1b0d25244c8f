"""The modules that may follow a pooling, each read from its config, and how tokens are pooled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, ModelLoadError
from engine.model_spec import DenseActivationFn, HeadModule, Pooling

_POOLINGS: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_KEYS = ("embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt")
_TORCH = ("torch.nn", "torch.nn.modules.activation", "torch.nn.modules.linear")
_DENSE_ACTIVATIONS: dict[str, DenseActivationFn] = {
    "Identity": "identity",
    "Tanh": "tanh",
    "GELU": "gelu",
    "ReLU": "relu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
_DENSE_KEYS = (
    *("in_features", "out_features", "bias", "activation_function"),
    *("module_input_name", "module_output_name", "use_residual"),
)


def refusal(path: Path, reason: str) -> ConfigError:
    """The error for a file of a chain that asks for what is not executed here."""
    return ConfigError(
        f"{path}: {reason}. Scores without it would be wrong, so the model is refused; save it with "
        "sentence-transformers in a supported form. Without its modules.json, --hf-overrides and --score-template say "
        "how it is scored.",
        param="model",
    )


def pooling_mode(path: Path, config: Mapping[str, Any]) -> Pooling:
    """The mode of a Pooling module, in the new form (``pooling_mode``) or the old one (a flag for each mode)."""
    known_keys(path, config, (*_POOLING_KEYS, *_POOLING_FLAGS))
    stated = config.get("pooling_mode")
    if stated is None:
        chosen = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    else:
        chosen = [str(mode) for mode in stated] if isinstance(stated, list) else [str(stated)]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise refusal(
            path, f"it pools tokens by {' and '.join(chosen)}; supported are {', '.join(_POOLINGS)}, one at a time"
        )
    return _POOLINGS[chosen[0]]


def dense(folder: Path, config: Mapping[str, Any]) -> HeadModule:
    """A linear layer with an activation; sentence-transformers takes Tanh where none is named.

    Raises ``ModelLoadError`` for a module without its sizes.
    """
    path = folder / "config.json"
    known_keys(path, config, _DENSE_KEYS)
    sizes = config.get("in_features"), config.get("out_features")
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ModelLoadError(
            f"{path} must hold the sizes in_features and out_features, not {sizes[0]!r} and {sizes[1]!r}."
        )
    residual = bool(config.get("use_residual"))
    return HeadModule(
        kind="dense",
        folder=str(folder),
        in_features=sizes[0],  # type: ignore[arg-type]
        out_features=sizes[1],  # type: ignore[arg-type]
        bias=config.get("bias", True) is not False,
        activation=_dense_activation(path, config.get("activation_function", "torch.nn.modules.activation.Tanh")),
        residual="no" if not residual else "same" if sizes[0] == sizes[1] else "linear",
    )


def layer_norm(folder: Path, config: Mapping[str, Any]) -> HeadModule:
    """A LayerNorm with torch's own epsilon, 1e-5. Raises ``ModelLoadError`` for a module without its size."""
    path, size = folder / "config.json", config.get("dimension")
    known_keys(path, config, ("dimension",))
    if not isinstance(size, int) or size < 1:
        raise ModelLoadError(f"{path} must hold the size dimension, not {size!r}.")
    return HeadModule(kind="layer_norm", folder=str(folder), in_features=size, out_features=size)


def normalize() -> HeadModule:
    """A vector divided by its length."""
    return HeadModule(kind="normalize")


def torch_class(name: object) -> str | None:
    """``Tanh`` of ``torch.nn.modules.activation.Tanh``; None for what is no class of torch's layers."""
    module, _, last = str(name).rpartition(".")
    return last if module in _TORCH else None


def _dense_activation(path: Path, name: object) -> DenseActivationFn:
    found = _DENSE_ACTIVATIONS.get(torch_class(name) or "")
    if found is None:
        raise refusal(
            path, f"activation_function is {name!r}; supported are {', '.join(_DENSE_ACTIVATIONS)} of torch.nn"
        )
    return found


def known_keys(path: Path, config: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Raises ``ConfigError`` for a key of a module's config that is none of ``keys``."""
    unknown = sorted(set(config) - {*keys, "__version__"})
    if unknown:
        raise refusal(path, f"its key {unknown[0]!r} is not known; known are {', '.join(keys)}")
