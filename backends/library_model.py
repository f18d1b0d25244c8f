"""A network as the installed transformers runs it, behind the contract of ``models.Model`` (``--model-impl
transformers``).

Pairs of one length run together, without padding, through the class's own forward pass; what it returns is the score.
So the values are the library's by construction, and that is all there is: no pair shares a prefix with another, none
is packed beside one of another length, and no kernel of this engine is used.
"""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from engine.backends.kv_cache import KVCache, KVShape
from engine.backends.nn.adapters import AdaptableHead
from engine.backends.nn.saved_modules import combine_labels
from engine.backends.packed_batch import PackedBatch
from engine.errors import ConfigError, ModelLoadError
from engine.extras import pip_install
from engine.kernels.ops import LayerShape
from engine.model_spec import ModelSpec

COST = (
    "no pair shares anything with another, only pairs of one length run together, and the engine's kernels, graphs and "
    "quantisation are not used: expect several times the time"
)
LAST_IS_LAST = -1
"""As the padding id of a class that has none: no token is padding, so it reads the last one."""
TYPES = "token_type_ids"


class LibraryModel:
    """Implements ``models.Model``."""

    kv_shape: KVShape | None = None
    scale = 1.0
    graphable = False
    adaptable = False
    head: AdaptableHead
    layer_shape = LayerShape(
        hidden=0, intermediate=0, num_heads=0, num_kv_heads=0, head_dim=0, scale=1.0, causal=False, gated=False,
        hidden_act="", rms_norm=False, eps=0.0,
    )  # fmt: skip
    """Of no layer: there is nothing for a backend to try beforehand."""

    def __init__(self, spec: ModelSpec, *, device: torch.device, dtype: torch.dtype) -> None:
        """Raises ``ModelLoadError`` for a class or weights that are not there, ``ConfigError`` without the library."""
        if find_spec("transformers") is None:
            raise ConfigError(
                f"--model-impl transformers needs the library: {pip_install('reference')}",
                param="model_impl",
            )
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.label_rows, self.num_outputs = spec.head.label_rows, spec.head.num_labels
        try:
            config_class = type(transformers.AutoConfig.for_model(spec.model_type))
            model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
                spec.path, config=config_class.from_dict(spec.config), dtype=dtype, use_safetensors=True,
                output_loading_info=True, local_files_only=True,
            )  # fmt: skip
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(spec.tokenizer_path, local_files_only=True)
        except (ImportError, OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
            raise ModelLoadError(
                f"transformers {transformers.__version__} cannot load {spec.name} for sequence classification: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from error
        if missing := sorted(loading["missing_keys"]):
            raise ModelLoadError(
                f"transformers {transformers.__version__} would make up {', '.join(missing[:3])} of {spec.name}, which "
                "its files do not hold: its scores would be random"
            )
        self.model: Any = model.to(device).eval()
        self._one_by_one = bool(getattr(model.config, "is_encoder_decoder", False))  # ends of texts are counted
        if model.config.pad_token_id is None:
            model.config.pad_token_id = LAST_IS_LAST
        takes = inspect.signature(model.forward).parameters
        self._takes_types = TYPES in takes and TYPES in tokenizer.model_input_names
        self.description = f"runs {type(model).__name__} of transformers {transformers.__version__} itself: {COST}"

    @property
    def num_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.model.parameters())

    def finish(self) -> None:
        """Does nothing: the library has loaded the model."""

    def forward(self, batch: PackedBatch, kv_cache: KVCache) -> torch.Tensor:
        """(R, num_outputs) fp32, in the order of the step's ``read_segments``."""
        starts, lengths = batch.read_attention.own_starts, batch.read_attention.own_lens
        out = torch.empty(len(starts), self.num_outputs, device=batch.token_ids.device)
        for length in np.unique(lengths):
            alike = np.flatnonzero(lengths == length)
            for some in alike[:, None] if self._one_by_one else [alike]:
                rows = torch.from_numpy(starts[some, None] + np.arange(length)).to(batch.token_ids.device)
                out[torch.from_numpy(some).to(out.device)] = self._logits(batch, rows)
        return out

    def _logits(self, batch: PackedBatch, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` (n, L) of the step: n pairs of one length -> (n, num_outputs)."""
        ids = batch.token_ids[rows]
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self._takes_types:
            types = batch.token_type_ids
            inputs[TYPES] = torch.zeros_like(ids) if types is None else types[rows]
        logits = self.model(**inputs).logits.float()
        return combine_labels(logits.T, self.label_rows).T
