"""Reads LoRA adapters in peft's layout: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.backends.loading.parameters import Parameters
from engine.backends.loading.safetensors_file import TensorInfo, TensorReader, find_tensors
from engine.backends.nn.adapters import AdaptableHead, Adapter, AdapterOps, Adapters, Side
from engine.errors import ModelLoadError

ROOT = "base_model.model."
_WRAPPINGS = re.compile(r"(?:modules_to_save\.|original_module\.|default\.|base_layer\.)")
"""Parts of names that versions of peft leave in or out."""
_FACTOR = re.compile(r"\.lora_(A|B)\.weight$")
_UNSUPPORTED = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    "velora_config": (None,),
}
"""Settings, and the values of them that change nothing."""
NUM_NAMED = 5
MAX_CONFIG_BYTES = 2**24
MAX_RANK = 2**17
MAX_PATTERNS, MAX_PATTERN_CHARS, MAX_REPEATS = 4096, 200, 2
"""Of ``rank_pattern`` and ``alpha_pattern``: what a regular expression may cost."""


@dataclass(frozen=True)
class Scaling:
    """How much an adapter's product counts, for each module."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    by_root: bool
    """alpha / sqrt(rank) instead of alpha / rank."""

    def of(self, module: str) -> float:
        rank = _matching(self.ranks, module, self.rank)
        alpha = _matching(self.alphas, module, self.alpha)
        return float(alpha / rank**0.5 if self.by_root else alpha / rank)


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """A pattern stands for the end of a module's name, as in peft."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


class LoadedAdapters(Adapters):
    """The adapters of a worker, and what is needed to read more of them from files."""

    def __init__(
        self, folders: Mapping[str, str], ops: AdapterOps, head: AdaptableHead, params: Parameters, prefix: str
    ) -> None:
        """``prefix``: ``CHECKPOINT_PREFIX`` of the base's family. Raises ``ModelLoadError``."""
        super().__init__(ops, head, {})
        self._head, self._params, self._prefix = head, params, prefix
        for name, folder in folders.items():
            self.load(name, folder)

    def load(self, name: str, folder: str) -> None:
        """Reads one, in place of one that has its name; where that fails, nothing has changed.

        Raises ``ModelLoadError``.
        """
        with TensorReader() as reader:
            self.put(name, AdapterFile(name, Path(folder), self._prefix, reader).load(self._head, self._params))


class AdapterFile:
    """The factors of one adapter, and the tensors that it replaces, by the modules' names without ``prefix``."""

    def __init__(self, name: str, folder: Path, prefix: str, reader: TensorReader) -> None:
        """Open the adapter's files. Raises ``ModelLoadError`` where they are damaged or hold no tensors."""
        self.label = f"the adapter {name!r} in {folder}"
        self._prefix, self._reader = prefix, reader
        self._scaling = self._read_config(folder)
        self._factors: dict[str, dict[str, TensorInfo]] = defaultdict(dict)
        self._whole: dict[str, TensorInfo] = {}
        self._full_names: dict[str, str] = {}
        for stored, info in find_tensors(folder).items():
            self._sort_in(stored, info)
        if not self._factors and not self._whole:
            raise ModelLoadError(f"{self.label} holds no tensors: it would change nothing")

    def load(self, head: AdaptableHead, params: Parameters) -> Adapter:
        """Read the factors. Raises ``ModelLoadError`` for tensors that an adapter cannot change here."""
        sides: dict[int, list[Side]] = defaultdict(list)
        for module in [module for module in self._factors if module in params.parts]:
            self._check_shapes(module, params)
            down, up = self.pop_factors(module)
            for own_part in params.parts[module]:
                rows = own_part.rows
                part = up[rows.first : rows.first + rows.count]
                own = down if own_part.columns is None else down[:, own_part.columns.start : own_part.columns.stop]
                factors = [factor.to(params.device, params.dtype).contiguous() for factor in (own, part)]
                sides[id(own_part.weight)].append(Side(factors[0], factors[1], own_part.above))
        state = head.derive({name: self._changed(name, tensor, head.rows) for name, tensor in head.tensors.items()})
        left = sorted([*self._factors, *self._whole])
        if left:
            more = ", ..." if len(left) > NUM_NAMED else ""
            raise ModelLoadError(
                f"{self.label} changes parts of the model that an adapter cannot change here: "
                f"{', '.join(left[:NUM_NAMED])}{more}. Merge it into the model and serve that"
            )
        return Adapter(dict(sides), state)

    def _check_shapes(self, module: str, params: Parameters) -> None:
        """Before anything is read: no file makes tensors that the model has no place for."""
        down, up = self._shapes(module)
        for own_part in params.parts[module]:
            total = own_part.rows.total or own_part.rows.count
            if (down[1], up[0]) != (own_part.in_features, total):
                raise ModelLoadError(
                    f"{self.label} does not fit the model: {module} has {total} x {own_part.in_features} "
                    f"weights, and the adapter's factors make {up[0]} x {down[1]}"
                )
            if down[0] > max(total, own_part.in_features):
                raise ModelLoadError(f"{self.label}: the rank of {module} is {down[0]}, more than its weights have")

    def _shapes(self, module: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of A (r, D) and B (C, r)."""
        infos = self._factors[module]
        if set(infos) == {"A", "B"}:
            down, up = infos["A"].shape, infos["B"].shape
            if len(down) == len(up) == 2 and down[0] == up[1]:
                return down, up
        raise ModelLoadError(f"{self.label} has no matching pair of factors for {module}")

    @property
    def modules(self) -> list[str]:
        """That have factors."""
        return sorted(self._factors)

    @property
    def whole_names(self) -> list[str]:
        """Tensors that are replaced."""
        return sorted(self._whole)

    def pop_whole(self, name: str) -> torch.Tensor:
        return self._read(self._whole.pop(name))

    def _read_config(self, folder: Path) -> Scaling:
        config = self._stored_config(folder / "adapter_config.json")
        kind = config.get("peft_type")
        if kind != "LORA":
            raise ModelLoadError(f"{self.label} is of the kind {str(kind)[:60]}; only LORA is supported")
        for setting, harmless in _UNSUPPORTED.items():
            if config.get(setting) not in harmless:
                shown = repr(config[setting])[:60]
                raise ModelLoadError(
                    f"{self.label} uses {setting}={shown}, which is not supported; merge it into the model "
                    "and serve that"
                )
        by_root = config.get("use_rslora") or False
        if not isinstance(by_root, bool):
            raise self._wrong("use_rslora", by_root, "is true or false")
        return Scaling(
            rank=self._rank("r", config.get("r")),
            alpha=self._alpha("lora_alpha", config.get("lora_alpha")),
            ranks=self._patterns("rank_pattern", config, self._rank),
            alphas=self._patterns("alpha_pattern", config, self._alpha),
            by_root=by_root,
        )

    def _stored_config(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise ModelLoadError(f"{self.label}: there is no adapter_config.json")
        if (size := path.stat().st_size) > MAX_CONFIG_BYTES:
            raise ModelLoadError(f"{self.label}: its adapter_config.json has {size:,} bytes, more than are read")
        try:
            config = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelLoadError(f"{self.label}: its adapter_config.json is damaged ({error})") from error
        if not isinstance(config, dict):
            raise ModelLoadError(f"{self.label}: its adapter_config.json is damaged: it holds no object")
        return config

    def _rank(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RANK:
            raise self._wrong(key, value, f"is a whole number from 1 to {MAX_RANK}")
        return value

    def _alpha(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:  # NaN is not
            raise self._wrong(key, value, "is a finite number")
        return float(value)

    def _patterns(self, key: str, config: Mapping[str, Any], read: Callable[[str, Any], Any]) -> dict[str, Any]:
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
            raise self._wrong(key, patterns, f"has at most {MAX_PATTERNS} names of modules, each with a number")
        for pattern in patterns:
            repeats = len(re.findall(r"(?<!\\)[*+?{]", pattern))
            if len(pattern) > MAX_PATTERN_CHARS or repeats > MAX_REPEATS or ")" in pattern:
                raise self._wrong(
                    key, pattern, f"names modules, with at most {MAX_REPEATS} repeats and without groups in a name"
                )
            try:
                re.compile(pattern)
            except (re.error, OverflowError) as error:
                raise self._wrong(key, pattern, f"names modules: {error}") from error
        return {pattern: read(key, value) for pattern, value in patterns.items()}

    def _wrong(self, key: str, value: Any, rule: str) -> ModelLoadError:
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        return ModelLoadError(f"{self.label}: {key} in its adapter_config.json {rule}, not {shown}")

    def _sort_in(self, stored: str, info: TensorInfo) -> None:
        full = _WRAPPINGS.sub("", stored.removeprefix(ROOT))
        name = full.removeprefix(self._prefix)
        factor = _FACTOR.search(name)
        if factor is None:
            self._whole[name] = info
            return
        module = name[: factor.start()]
        self._factors[module][factor[1]] = info
        self._full_names[module] = full[: len(full) - len(factor[0])]

    def pop_factors(self, module: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, D) and scaled B (C, r), fp32."""
        self._shapes(module)
        infos = self._factors.pop(module)
        down, up = self._read(infos["A"]), self._read(infos["B"])
        return down, up * self._scaling.of(self._full_names[module])

    def _read(self, info: TensorInfo) -> torch.Tensor:
        return torch.cat([run.float().clone() for _, run in self._reader.rows(info)])

    def _changed(self, name: str, tensor: torch.Tensor, rows: tuple[int, ...] | None) -> torch.Tensor:
        """A tensor of the head with what the adapter does to it."""
        module = name.removesuffix(".weight")
        stored_rows = tensor.shape[0] if rows is None else max(rows) + 1
        if name in self._whole:
            info = self._whole.pop(name)
            fits = info.shape[0] == stored_rows if rows is None else info.shape[0] >= stored_rows
            if info.shape[1:] != tuple(tensor.shape[1:]) or not fits:
                raise ModelLoadError(f"{self.label} does not fit the model: {name} has the shape {list(info.shape)}")
            whole = self._read(info)
            tensor = whole if rows is None else whole[list(rows)]
        if name != module and module in self._factors:
            (rank, columns), (up_rows, _) = self._shapes(module)
            fits = up_rows == stored_rows if rows is None else up_rows >= stored_rows
            if columns != tensor.shape[1] or not fits or rank > max(columns, up_rows):
                raise ModelLoadError(
                    f"{self.label} does not fit the model: {module} has {stored_rows} x {tensor.shape[1]} weights, and "
                    f"the adapter's factors of rank {rank} make {up_rows} x {columns}"
                )
            down, up = self.pop_factors(module)
            tensor = tensor + (up if rows is None else up[list(rows)]) @ down
        return tensor
