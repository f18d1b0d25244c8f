"""What a quantised checkpoint's weights take, from its settings alone: before anything is downloaded.

The same facts as ``backends/loading/formats`` finds in the tensors, for whole models. A GGUF file has no settings: the
types of its tensors are in its header, which is read.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.config import grouped_bytes

if TYPE_CHECKING:
    from engine.backends.measure.stored_files import StoredBlocks

KeptGroups = Mapping[int, Collection[str | None]]
"""``Capabilities.keeps_groups``."""
IGNORED = ("ignore", "modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules")
"""Settings that name modules which were left alone."""


class StoredPart(NamedTuple):
    """Linear weights that are stored alike."""

    words: str
    bits: float
    """A weight, scales included, in the file."""
    kept: tuple[int, float] | None = None
    """Bits and bytes of a weight where a device keeps it in groups; None: it is dequantised."""
    share: float = 1.0
    """Of the numbers in the linear layers."""


@dataclass(frozen=True)
class StoredWeights:
    """The stored weights of the linear layers."""

    parts: tuple[StoredPart, ...]
    """Those that are quantised."""
    table_bytes: float | None = None
    """Of a number of the embedding, where the dtype of config.json is not the file's."""

    @property
    def words(self) -> str:
        return "; ".join(part.words for part in self.parts)

    @property
    def left_plain(self) -> float:
        """Share of the numbers in the linear layers."""
        return max(0.0, 1.0 - sum(part.share for part in self.parts))

    @property
    def bits(self) -> float:
        """A quantised weight, scales included, in the file."""
        return sum(part.bits * part.share for part in self.parts) / sum(part.share for part in self.parts)

    def kept_bytes(self, quantization: str | None, groups: KeptGroups) -> dict[int, float]:
        """Bits -> bytes, for each number of the linear layers, of what a device keeps in groups."""
        found: dict[int, float] = defaultdict(float)
        for part in self._kept(quantization, groups):
            assert part.kept is not None
            found[part.kept[0]] += part.share * part.kept[1]
        return dict(sorted(found.items()))

    def bytes_per_weight(self, dequantized: float, plain: float, quantization: str | None, groups: KeptGroups) -> float:
        """The bytes on a device, where a dequantised weight takes ``dequantized`` and one left alone ``plain``."""
        kept = self._kept(quantization, groups)
        rest = 1.0 - self.left_plain - sum(part.share for part in kept)
        return sum(self.kept_bytes(quantization, groups).values()) + rest * dequantized + self.left_plain * plain

    def _kept(self, quantization: str | None, groups: KeptGroups) -> list[StoredPart]:
        return [part for part in self.parts if part.kept and quantization in groups.get(part.kept[0], ())]

    def as_json(self) -> dict[str, Any]:
        parts = [part._asdict() for part in self.parts]
        return {"words": self.words, "bits": self.bits, "left_plain": self.left_plain, "parts": parts}


def stored_weights(
    config: Mapping[str, Any], sizes: Mapping[str, int], folder: Path | None = None
) -> StoredWeights | None:
    """The stored weights; None for a plain checkpoint, and for one whose settings do not say.

    ``sizes``: numbers of each linear weight, by its name in the body. ``folder``: of the files beside config.json.
    """
    settings = _settings_of(config)
    if folder is not None:
        from engine.backends.measure.stored_files import find_blocks, quantization_settings

        if (blocks := find_blocks(folder)) is not None:
            return _gguf(blocks, sizes)
        settings = quantization_settings(str(folder), config) or {}
    method = str(settings.get("quant_method", "")).removeprefix("intel/")
    try:
        if method == "ascend":
            found = _modelslim(settings, sizes)
        elif method == "compressed-tensors":
            found = _compressed(settings, sizes)
        else:
            reader = _READERS.get(method)
            found = [] if reader is None else [(reader(method, settings), _share(settings, sizes))]
    except (
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        re.error,
    ):  # the loader says what is wrong
        return None
    parts = tuple(part._replace(share=share) for part, share in found if share > 0)
    return StoredWeights(parts) if parts else None


def _settings_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = config.get("quantization_config") or config.get("compression_config")
    return settings if isinstance(settings, Mapping) else {}


def _share(settings: Mapping[str, Any], sizes: Mapping[str, int]) -> float:
    """Of the numbers whose modules no setting names as left alone."""
    ignored = [str(name) for key in IGNORED for name in settings.get(key) or ()]
    if not ignored or not sizes:
        return 1.0
    taken = sum(size for name, size in sizes.items() if not any(_is_named(name, pattern) for pattern in ignored))
    return taken / sum(sizes.values())


def _is_named(name: str, pattern: str) -> bool:
    """By its whole name, its last parts, a pattern of a shell (modelopt) or a regular expression (``re:``)."""
    full = f"model.{name}"
    if pattern.startswith("re:"):
        return any(re.match(pattern[3:], known) for known in (name, full))
    return full.endswith(f".{pattern}") or f".{pattern}." in f".{full}." or fnmatchcase(full, pattern)


def _gguf(blocks: StoredBlocks, sizes: Mapping[str, int]) -> StoredWeights | None:
    found: Counter[str] = Counter()
    for module, size in sizes.items():
        if (facts := blocks.tensors.get(f"{module}.weight")) is not None:
            found[facts.type] += size
    of_type = {facts.type: facts for facts in blocks.tensors.values()}
    parts = []
    for kind, count in found.most_common():
        _, bits, layout = of_type[kind]
        kept = layout.bits, grouped_bytes(layout.group, layout.bits, has_offsets=layout.has_offsets)
        parts.append(StoredPart(f"GGUF {kind}", bits, kept, count / sum(sizes.values())))
    return StoredWeights(tuple(parts), blocks.table_bytes) if parts else None


def _modelslim(settings: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[StoredPart, float]]:
    kinds: Counter[str] = Counter()
    for name, size in sizes.items():
        kind = settings.get(f"model.{name}.weight", settings.get(f"{name}.weight", "FLOAT"))
        kinds[str(kind)] += size
    return [
        (StoredPart(f"msModelSlim {kind}, 8 bits, a scale a row", 8, (8, 1.0)), count / sum(sizes.values()))
        for kind, count in kinds.most_common()
        if kind != "FLOAT"
    ]


def _integers(method: str, settings: Mapping[str, Any]) -> StoredPart:
    """AWQ, GPTQ, AutoRound: 16 bits of scale and a zero point for each group."""
    bits = int(settings.get("bits") or settings.get("w_bit") or 4)
    group = int(settings.get("group_size") or settings.get("q_group_size") or 128)
    return _grouped(method.upper(), bits, group, 16 + bits, offsets=True, kept=not settings.get("desc_act"))


def _grouped(
    name: str, bits: int, group: int, scale_bits: float, *, offsets: bool = False, kept: bool = True
) -> StoredPart:
    """``group`` -1: the whole row, whose scale is not worth counting."""
    whole = group <= 0
    words = f"{name}, {bits} bits" + (" with a scale a row" if whole else f" in groups of {group}")
    overhead = 0.0 if whole else scale_bits / group
    width = 4 if bits <= 4 else 8
    kept_bytes = width / 8 if whole else grouped_bytes(group, width, has_offsets=offsets)
    return StoredPart(words, bits + overhead, (width, kept_bytes) if kept else None)


def _compressed(settings: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[StoredPart, float]]:
    """Each module belongs to the group whose targets name it, else to the one for the class Linear."""
    groups = list(settings["config_groups"].values())
    parts = [_compressed_group(settings, group) for group in groups]
    if not sizes:
        return [(parts[0], 1.0)]
    ignored = [str(name) for name in settings.get("ignore") or ()]
    found: Counter[int] = Counter()
    for name, size in sizes.items():
        if any(_is_named(name, pattern) for pattern in ignored):
            continue
        named = [
            i for i, group in enumerate(groups) if any(_is_named(name, str(t)) for t in group.get("targets") or ())
        ]
        by_class = [i for i, group in enumerate(groups) if "Linear" in (group.get("targets") or ())]
        choice = next(iter(named or by_class or ([0] if len(groups) == 1 else [])), None)
        if choice is not None:
            found[choice] += size
    return [(parts[i], count / sum(sizes.values())) for i, count in sorted(found.items())]


def _compressed_group(settings: Mapping[str, Any], chosen: Mapping[str, Any]) -> StoredPart:
    weights = chosen["weights"]
    layout = str(chosen.get("format") or settings.get("format"))
    bits, group = int(weights["num_bits"]), int(weights.get("group_size") or -1)
    if weights.get("strategy") in ("channel", "tensor", "block"):
        group = -1
    scale_bits = 8 if layout.startswith(("nvfp4", "mx")) else 16
    asymmetric = weights.get("symmetric") is False
    by_index = weights.get("actorder") == "group"
    integers = weights.get("type", "int") == "int" or bits == 4
    return _grouped(
        f"compressed-tensors {layout}", bits, group, scale_bits + bits * asymmetric, offsets=asymmetric,
        kept=integers and not by_index,
    )  # fmt: skip


def _fp8(method: str, settings: Mapping[str, Any]) -> StoredPart:
    block = settings.get("weight_block_size")
    return StoredPart(f"fp8{f' in blocks of {block}' if block else ''}", 8, None)


def _modelopt(method: str, settings: Mapping[str, Any]) -> StoredPart:
    name = str(settings.get("quant_algo") or "")
    known = {"NVFP4": (4, 16, 8), "W4A16_NVFP4": (4, 16, 8), "MXFP4": (4, 32, 8), "MXFP8": (8, 32, 8)}
    if name in known:
        bits, group, scale_bits = known[name]
        return _grouped(f"modelopt {name}", bits, group, scale_bits, kept=bits == 4)
    return StoredPart(f"modelopt {name}", 4 if name.startswith("W4") else 8, None)


def _bitsandbytes(method: str, settings: Mapping[str, Any]) -> StoredPart:
    if not (settings.get("load_in_4bit") or settings.get("_load_in_4bit")):
        return StoredPart("bitsandbytes int8, a scale a row", 8, (8, 1.0))
    double = bool(settings.get("bnb_4bit_use_double_quant"))
    kind = settings.get("bnb_4bit_quant_type", "fp4")
    return _grouped(f"bitsandbytes {kind}", 4, 64, 8 + 32 / 256 if double else 32)


def _hqq(method: str, settings: Mapping[str, Any]) -> StoredPart:
    params = settings["quant_config"]["weight_quant_params"]
    bits, group = int(params.get("nbits", 4)), int(params.get("group_size", 64))
    return _grouped("HQQ", bits, group, 32, offsets=True, kept=params.get("axis", 1) == 1)


def _torchao(method: str, settings: Mapping[str, Any]) -> StoredPart:
    """Its 8-bit types are what is read; the name of the configuration says which."""
    is_float = "Float8" in str(settings.get("quant_type"))
    return StoredPart("torchao, 8 bits", 8, None if is_float else (8, 1.0))


_READERS = {
    "auto-round": _integers,
    "awq": _integers,
    "bitsandbytes": _bitsandbytes,
    "fbgemm_fp8": _fp8,
    "fp8": _fp8,
    "gptq": _integers,
    "hqq": _hqq,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "torchao": _torchao,
}
