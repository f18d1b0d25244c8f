"""The end of an encoder: hidden states of the read tokens -> logits or pooled vectors, always in fp32.

A classification head is a dense layer, an activation, sometimes a norm, and the rows of the labels. It sees one token a
pair, so computing it in fp32 as the file has it costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.adapters import AdaptableHead
from engine.backends.nn.saved_modules import SavedModules, combine_labels, exact_gelu
from engine.backends.packed_batch import PackedBatch
from engine.errors import ModelLoadError
from engine.kernels.ranges import expand_ranges
from engine.model_spec import ModelSpec

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "gelu": exact_gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "silu": F.silu,
}


@dataclass(frozen=True, kw_only=True)
class HeadNames:
    """The names of a classification head's tensors."""

    out: str
    dense: str
    activation: str = "tanh"
    dense_bias: bool = True
    norm: str | None = None
    norm_bias: bool = True


class EncoderHead(AdaptableHead):
    """(R, D) -> (R, O) logits, or the vectors, through saved modules, for a model without a head of its own."""

    state: dict[str, torch.Tensor]
    """The tensors on the device, once ``finish`` was called."""

    def __init__(self, params: Parameters, spec: ModelSpec, hidden: int, eps: float, names: HeadNames) -> None:
        """Raises ``ModelLoadError`` for an activation that is not supported."""
        self.names, self.eps, self.device = names, eps, params.device
        self.tensors: dict[str, torch.Tensor] = {}
        self.label_rows = spec.head.label_rows
        self.modules = SavedModules(params, spec.head, hidden, spec.path)
        self.num_outputs = self.modules.num_outputs
        if spec.head.gives_vectors:
            params.skip(f"{names.dense}.", f"{names.out}.", *([f"{names.norm}."] if names.norm else []))
            return
        if names.activation not in ACTIVATIONS:
            raise ModelLoadError(
                f"{spec.path}: the head's activation {names.activation!r} is not supported; supported are "
                f"{', '.join(ACTIVATIONS)}"
            )
        self.num_outputs = spec.head.num_labels
        num_labels = spec.head.stored_rows
        shapes: dict[str, tuple[int, ...]] = {
            f"{names.dense}.weight": (hidden, hidden),
            f"{names.out}.weight": (num_labels, hidden),
        }
        shapes |= {f"{names.dense}.bias": (hidden,)} if names.dense_bias else {}
        shapes |= {f"{names.norm}.weight": (hidden,)} if names.norm else {}
        shapes |= {f"{names.norm}.bias": (hidden,)} if names.norm and names.norm_bias else {}
        shapes |= {f"{names.out}.bias": (num_labels,)}
        self.tensors = {name: params.exact(name, shape) for name, shape in shapes.items()}

    def finish(self, folder: str = "") -> None:
        """Prepares the head after the last tensor was read."""
        self.modules.finish()
        self.state = self.derive(self.tensors)

    def derive(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        out = f"{self.names.out}."
        return {
            name: (combine_labels(tensor, self.label_rows) if name.startswith(out) else tensor).to(self.device)
            for name, tensor in tensors.items()
        }

    def __call__(self, read: torch.Tensor) -> torch.Tensor:
        x, names, tensors = read.float(), self.names, self.state
        if not tensors:
            return self.modules(x)
        x = F.linear(x, tensors[f"{names.dense}.weight"], tensors.get(f"{names.dense}.bias"))
        x = ACTIVATIONS[names.activation](x)
        if names.norm:
            norm_bias = tensors.get(f"{names.norm}.bias")
            x = F.layer_norm(x, x.shape[1:], tensors[f"{names.norm}.weight"], norm_bias, self.eps)
        return F.linear(x, tensors[f"{names.out}.weight"], tensors.get(f"{names.out}.bias"))


def mean_of_segments(x: torch.Tensor, batch: PackedBatch) -> torch.Tensor:
    """(T, D) -> (R, D) fp32: the mean over each read segment's own tokens."""
    starts, lengths = batch.read_attention.own_starts, batch.read_attention.own_lens
    arrays = expand_ranges(starts, lengths), np.repeat(np.arange(len(lengths)), lengths), lengths
    rows, owners, counts = (torch.from_numpy(array).to(x.device) for array in arrays)
    sums = torch.zeros(len(lengths), x.shape[1], dtype=torch.float32, device=x.device)
    return sums.index_add_(0, owners, x.index_select(0, rows).float()) / counts.unsqueeze(1)
