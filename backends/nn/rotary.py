"""Rotary position tables, (positions, H/2) in fp32, with the scalings that published rerankers use.

Su et al. 2021, arXiv 2104.09864. ``linear``: Chen et al. 2023, arXiv 2306.15595; ``yarn``: Peng et al. 2023, arXiv
2309.00071; ``llama3``: as in the Llama 3.1 release. The formulas are evaluated in the order and precision in which
transformers does it, so that positions in the tens of thousands agree too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from engine.checkpoint.families import rope_of
from engine.errors import ModelLoadError


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` (transformers 5), or ``rope_theta`` and ``rope_scaling`` (4), as one dictionary."""
    settings = dict(rope_of(config))
    settings["rope_type"] = settings.get("rope_type") or settings.pop("type", None) or "default"
    settings.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    settings.setdefault("max_position_embeddings", config.get("max_position_embeddings"))
    original = config.get("original_max_position_embeddings")
    if original is not None:
        settings.setdefault("original_max_position_embeddings", original)
    settings.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    return settings


def rope_tables(
    config: Mapping[str, Any], head_dim: int, num_positions: int, device: torch.device, *, partial: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes the tables of a rotation; ``head_dim``: numbers of a head that rotate, fewer than it has if ``partial``.

    Raises ``ModelLoadError`` for a rotation that is not computed.
    """
    settings = rope_settings(config)
    settings["num_positions"] = num_positions
    if (not partial and settings.get("partial_rotary_factor", 1.0) != 1.0) or config.get(
        "partial_rotary_factor", 1.0
    ) != 1.0:
        raise ModelLoadError(
            "partial_rotary_factor other than 1 is not supported: this model rotates part of each head"
        )
    powers = settings["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    kind = settings["rope_type"]
    try:
        frequencies, stretch = _SCALINGS[kind](powers, settings, head_dim)
    except KeyError as error:
        if kind in _SCALINGS:
            raise ModelLoadError(f"rope scaling {kind!r} needs {error.args[0]!r} in config.json") from error
        raise ModelLoadError(
            f"rope scaling {kind!r} is not supported; supported are {', '.join(sorted(_SCALINGS))}"
        ) from error
    angles = torch.arange(num_positions).float()[:, None] * frequencies
    return (angles.cos() * stretch).to(device), (angles.sin() * stretch).to(device)


def _default(powers: torch.Tensor, settings: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    return 1.0 / powers, 1.0


def _linear(powers: torch.Tensor, settings: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    return 1.0 / powers / settings["factor"], 1.0


def _llama3(powers: torch.Tensor, settings: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    """Slow frequencies are divided by the factor, fast ones kept, those between are blended."""
    factor, old_len = settings["factor"], settings["original_max_position_embeddings"]
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    frequencies = 1.0 / powers
    wave_len = 2 * math.pi / frequencies
    blend = ((old_len / wave_len - low) / (high - low)).clamp(0, 1)
    return (1 - blend) * frequencies / factor + blend * frequencies, 1.0


def _yarn(powers: torch.Tensor, settings: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    factor, old_len = settings["factor"], settings["original_max_position_embeddings"]

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    stretch = settings.get("attention_factor")
    if stretch is None:
        numerator, denominator = settings.get("mscale"), settings.get("mscale_all_dim")
        stretch = mscale(numerator) / mscale(denominator) if numerator and denominator else mscale(1)

    def dimension(rotations: float) -> float:
        return head_dim * math.log(old_len / (rotations * 2 * math.pi)) / (2 * math.log(settings["rope_theta"]))

    low, high = dimension(settings.get("beta_fast") or 32), dimension(settings.get("beta_slow") or 1)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = ((torch.arange(head_dim // 2).float() - low) / max(high - low, 0.001)).clamp(0, 1)
    return 1.0 / (factor * powers) * ramp + 1.0 / powers * (1 - ramp), float(stretch)


def _ntk(powers: torch.Tensor, settings: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    """NTK-aware scaling, fixed or mixed (kexue.fm/archives/9706), as the GTE models have it."""
    factor, mixed = settings["factor"], settings.get("mixed_b")
    if mixed is not None:
        slope = math.log(factor) / (head_dim / 2) ** mixed
        return 1.0 / powers / (slope * torch.arange(1, head_dim // 2 + 1).float() ** mixed).exp(), 1.0
    wider = (settings["rope_theta"] * factor) ** (torch.arange(0, head_dim, 2).float() / head_dim)
    return 1.0 / wider / factor ** (2 / head_dim), 1.0


def _divided(powers: torch.Tensor, settings: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    """Each frequency by a number of its own, as GGUF files of Llama 3 hold the result of their scaling."""
    return 1.0 / powers / torch.tensor(settings["divisors"], dtype=torch.float32), 1.0


def _longrope(powers: torch.Tensor, settings: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    """Ding et al. 2024, arXiv 2402.13753. Other factors hold for texts beyond the original length, in transformers for
    all that share a batch with one, so only inputs up to it have a score of their own."""
    longest, original = settings["max_position_embeddings"], settings["original_max_position_embeddings"]
    if longest is None:
        raise KeyError("max_position_embeddings")
    if settings["num_positions"] > original:
        raise ModelLoadError(
            f"rope scaling 'longrope' is supported for inputs up to the original {original} tokens; pass "
            f"--max-model-len {original}"
        )
    factor = settings.get("factor") or longest / original
    stretch = settings.get("attention_factor")
    if stretch is None:
        stretch = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return 1.0 / (torch.tensor(settings["short_factor"], dtype=torch.float32) * powers), float(stretch)


def _dynamic(powers: torch.Tensor, settings: Mapping[str, Any], head_dim: int) -> tuple[torch.Tensor, float]:
    """The usual frequencies, up to the length that the model was trained on. Those of a longer input depend on its
    length, in transformers of the longest in its batch."""
    longest = settings["max_position_embeddings"]
    if settings["num_positions"] > longest:
        raise ModelLoadError(
            f"rope scaling 'dynamic' is supported up to the {longest} tokens of max_position_embeddings: "
            f"--max-model-len {longest}"
        )
    return 1.0 / powers, 1.0


_SCALINGS = {
    "dynamic": _dynamic,
    "longrope": _longrope,
    "default": _default,
    "mrope": _default,  # of one axis, which is that of texts
    "divided": _divided,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "ntk": _ntk,
}
