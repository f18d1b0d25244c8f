"""The tensors of a quantised checkpoint while a format sorts them: what belongs to a module is taken out together.

Every check of shapes and dtypes is made here and now, from the files' headers, so that a broken checkpoint is refused
before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from engine.backends.loading.safetensors_file import TensorInfo, TensorReader
from engine.backends.loading.source import Source
from engine.errors import ModelLoadError


class Format(NamedTuple):
    """How a checkpoint is quantised."""

    words: str
    """For people."""
    runs_in: str | None = None
    """The run-time quantisation that gives the same values back, where there is one."""


def refusal(folder: str, what: str) -> ModelLoadError:
    return ModelLoadError(
        f"{folder} is {what}, which is not supported; docs/models.md lists the quantised formats that are. Use one of "
        "those, or the original checkpoint"
    )


class Stored:
    """``tensors`` by their names in the body; ``prefix`` is what the files put before them."""

    def __init__(
        self, folder: str, settings: Mapping[str, Any], tensors: Mapping[str, TensorInfo], prefix: str = ""
    ) -> None:
        self.folder, self.settings, self.prefix = folder, settings, prefix
        self.left = dict(tensors)
        """Nobody took them yet."""
        self.sources: dict[str, Source] = {}

    def refuse(self, what: str) -> ModelLoadError:
        return refusal(self.folder, what)

    def broken(self, problem: str) -> ModelLoadError:
        return ModelLoadError(
            f"{self.folder} cannot be loaded: {problem}; download it again, or use another checkpoint"
        )

    def label(self, module: str) -> str:
        return f"{module} of {self.folder}"

    def modules(self, ending: str) -> list[str]:
        """Names of the modules that have a tensor with this ending."""
        return [name.removesuffix(f".{ending}") for name in self.left if name.endswith(f".{ending}")]

    def setting(self, name: str, *allowed: Any, default: Any = None) -> Any:
        """A setting of the format that must be one of ``allowed``."""
        found = self.settings.get(name, default)
        if found not in allowed:
            raise self.refuse(f"quantised with {name}={found!r}")
        return found

    def count(self, name: str, *others: str) -> int:
        """A setting that is a whole number: the first of these names that is there."""
        for key in (name, *others):
            value = self.settings.get(key)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        raise self.broken(f"its quantization_config gives no whole number as {name}")

    def take(self, name: str) -> TensorInfo | None:
        return self.left.pop(name, None)

    def need(self, module: str, part: str, shape: tuple[int, ...] | None = None, *dtypes: torch.dtype) -> TensorInfo:
        """A tensor that must be there, in one of ``dtypes``, and of this shape."""
        name = f"{module}.{part}"
        info = self.take(name)
        if info is None:
            raise self.broken(f"it holds a quantised {module}, but no {name} to read it with")
        if dtypes and info.dtype not in dtypes:
            raise self.broken(f"{name} is {_name(info.dtype)}; expected {' or '.join(map(_name, dtypes))}")
        if shape is not None and info.shape != shape:
            raise self.broken(f"{name} has the shape {info.shape}; expected {shape}")
        return info

    def matrix(self, module: str, part: str, *dtypes: torch.dtype) -> TensorInfo:
        """A tensor that must be there with two sides, none of them zero."""
        info = self.need(module, part, None, *dtypes)
        if len(info.shape) != 2 or not all(info.shape):
            raise self.broken(f"{module}.{part} has the shape {info.shape}; expected two sides")
        return info

    def drop(self, *endings: str) -> None:
        """Tensors that a reader of weights has no use for."""
        for name in [name for name in self.left if name.endswith(endings)]:
            del self.left[name]

    def put(self, module: str, source: Source) -> None:
        self.sources[f"{module}.weight"] = source

    def finish(self) -> dict[str, Source]:
        """The tensors of the model, with those that are not quantised."""
        for name in self.left:
            if name in self.sources:
                raise self.broken(f"it holds {name} twice, plain and quantised")
        return {**self.left, **self.sources}

    def groups(self, module: str, num_columns: int, group: int) -> tuple[int, int]:
        """(size of a group, number of groups) for a stated size, -1 being the whole row."""
        size = num_columns if group == -1 else min(group, num_columns)
        if size <= 0:
            raise self.broken(f"a group size of {group} is impossible for {module}")
        return size, -(-num_columns // size)

    def values(self, name: str, info: TensorInfo, most: int = 64) -> list[int]:
        """A small tensor of whole numbers, read now."""
        num_values = info.num_bytes // info.dtype.itemsize
        if not 0 < num_values <= most or info.dtype.is_floating_point:
            raise self.broken(f"{name} should hold a few whole numbers")
        with TensorReader() as reader:
            return [int(value) for _, run in reader.rows(info) for value in run.reshape(-1).tolist()]

    def __iter__(self) -> Iterator[tuple[str, TensorInfo]]:
        return iter(list(self.left.items()))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
