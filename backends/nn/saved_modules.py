"""The modules that sentence-transformers saved behind a pooling, computed in fp32 on the pooled vectors.

They see one vector a pair, so fp32 as the files have it costs nothing. R pooled vectors, D hidden size, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from engine.backends.loading.parameters import Parameters
from engine.errors import ModelLoadError
from engine.model_spec import DenseActivationFn, HeadModule, HeadSpec

NORM_EPS = 1e-5
"""Of torch's LayerNorm, which the files never state."""
NAME = "modules.{}.{}"
"""Of a module's tensors among those of the checkpoint: number in ``HeadSpec.modules``, name in its own file."""


def exact_gelu(x: torch.Tensor) -> torch.Tensor:
    """x Phi(x), written out: on Ascend torch's own ``gelu`` always computes the tanh form."""
    return 0.5 * x * (1 + torch.erf(x * 0.5**0.5))


_ACTIVATIONS: dict[DenseActivationFn, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda x: x,
    "tanh": torch.tanh,
    "gelu": exact_gelu,
    "relu": torch.relu,
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
}


def combine_labels(rows: torch.Tensor, label_rows: tuple[int, ...]) -> torch.Tensor:
    """Rows of a stored head, (O, D) or (O,), as ``HeadSpec.label_rows`` has them: all, one, or a difference of two."""
    if not label_rows:
        return rows
    positive = rows[label_rows[-1]]
    return (positive - rows[label_rows[0]] if len(label_rows) == 2 else positive).unsqueeze(0)


class SavedModules:
    """(R, D) pooled vectors -> (R, O); without modules they stay as they are."""

    def __init__(self, params: Parameters, head: HeadSpec, hidden: int, label: str) -> None:
        """Raises ``ModelLoadError`` where a module does not fit the one before it."""
        self.modules, self.label_rows, self.device = head.modules, head.label_rows, params.device
        self.num_outputs = hidden
        self._tensors: dict[str, torch.Tensor] = {}
        for number, module in enumerate(self.modules):
            if module.kind != "normalize" and module.in_features != self.num_outputs:
                raise ModelLoadError(
                    f"{label}: {module.folder} takes vectors of {module.in_features} numbers, and what comes before it "
                    f"makes {self.num_outputs}"
                )
            for name, shape in _shapes(module).items():
                full_name = NAME.format(number, name)
                self._tensors[full_name] = params.exact(module.weight or full_name, shape)
            self.num_outputs = module.out_features or self.num_outputs
        if head.kind == "modules":
            self.num_outputs = head.num_labels

    def finish(self) -> None:
        """Prepares the modules after the last tensor was read."""
        if self.label_rows:
            last = NAME.format(len(self.modules) - 1, "linear.")
            for name in [name for name in self._tensors if name.startswith(last)]:
                self._tensors[name] = combine_labels(self._tensors[name], self.label_rows)
        self._tensors = {name: tensor.to(self.device) for name, tensor in self._tensors.items()}

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        x = vectors.float()
        for number, module in enumerate(self.modules):
            x = self._apply(number, module, x)
        return x

    def _apply(self, number: int, module: HeadModule, x: torch.Tensor) -> torch.Tensor:
        def tensor(name: str) -> torch.Tensor | None:
            return self._tensors.get(NAME.format(number, name))

        if module.kind == "normalize":
            return F.normalize(x, dim=-1)
        if module.kind == "layer_norm":
            return F.layer_norm(x, x.shape[1:], tensor("norm.weight"), tensor("norm.bias"), NORM_EPS)
        weight = tensor("linear.weight")
        assert weight is not None
        y = _ACTIVATIONS[module.activation](F.linear(x, weight, tensor("linear.bias")))
        if module.residual == "no":
            return y
        projection = tensor("residual.weight")
        return y + (x if projection is None else F.linear(x, projection))


def _shapes(module: HeadModule) -> dict[str, tuple[int, ...]]:
    """Of the tensors in the module's file."""
    rows, columns = module.out_features, module.in_features
    if module.kind == "normalize":
        return {}
    if module.kind == "layer_norm":
        return {"norm.weight": (rows,), "norm.bias": (rows,)}
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (rows, columns)}
    shapes |= {"linear.bias": (rows,)} if module.bias else {}
    return shapes | ({"residual.weight": (rows, columns)} if module.residual == "linear" else {})
