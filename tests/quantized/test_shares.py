"""Tensor parallel and adapters on quantised checkpoints: what a worker gets is that of the same numbers, plain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine import LLM
from engine.backends.loading.checkpoint import open_model
from engine.backends.loading.parameters import Parameters
from engine.backends.loading.weights import check_tensors, load_weights
from engine.backends.models import find_family
from engine.backends.tensor_parallel import TPGroup
from engine.kernels.reference import ReferenceGrouped, ReferenceLinear, ReferenceOps
from tests.backends.plans import spec_of
from tests.quantized.test_models import DOCUMENTS, NAMES, QUERY, make
from tests.support.adapters import make_adapter, merge
from tests.support.checkpoints import official_qwen3_scores

MORE = ["gptq", "gptq 2 bits", "auto-round awq", "nf4 0", "fp4 1", "pack-quantized",
        "mxfp8-quantized", "int-quantized-asymmetric", "float-quantized-block"]  # fmt: skip

IN_4_BITS = ("awq", "gptq", "hqq", "pack-quantized", "modelopt nvfp4")


def share(folder: Path, index: int, size: int) -> tuple[list[torch.Tensor], int]:
    """All linear weights of one worker, wide, and how many of them are kept in 4 bits."""
    spec = spec_of(folder, max_model_len=64)
    family = find_family(spec.model_type)
    tensors = open_model(str(folder), json.loads((folder / "config.json").read_text()), "model.").tensors
    params = Parameters(
        ReferenceOps(), device=torch.device("cpu"), dtype=torch.float32, tensors=tensors, keep_groups=(4, 8),
        group=TPGroup(index, size),
    )  # fmt: skip
    family.build(spec, params)
    check_tensors(str(folder), params.destinations, tensors)
    load_weights(params.destinations, tensors)
    weights = {id(part.weight): part.weight for parts in params.parts.values() for part in parts}.values()
    wide = [weight.weight for weight in weights if isinstance(weight, ReferenceLinear | ReferenceGrouped)]
    assert len(wide) == len(weights)
    return wide, sum(isinstance(weight, ReferenceGrouped) for weight in weights)


@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_each_worker_gets_its_rows_and_columns(name: str, tmp_path: Path) -> None:
    """Rows of the fused projections, columns of the others; in 4 bits, where they stay so, or dequantised."""
    folder = tmp_path / "m"
    twin = make(folder, name, layers=1, intermediate=256, kv_heads=2)
    for index in range(2):
        mine, kept = share(folder, index, 2)
        plain, _ = share(twin, index, 2)
        for found, expected in zip(mine, plain, strict=True):  # in groups a zero point is an offset, rounded once more
            torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-6 * bool(kept), atol=1e-7 * bool(kept))
        if name in IN_4_BITS:
            assert kept == len(mine)


@pytest.mark.parametrize("name", ["awq", "gptq act order", "nf4 1", "fp8 blocks"])
def test_an_adapter_on_a_quantised_model_is_that_on_the_same_numbers(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    twin = make(folder, name, layers=1, hidden=256, intermediate=512, head_dim=64)
    adapter = make_adapter(tmp_path / "adapter", twin, ["q_proj", "down_proj"])
    merged = merge(tmp_path / "merged", twin, adapter)
    with LLM(str(folder), device="cpu", lora_modules={"mine": str(adapter)}) as llm:
        found = [
            [output.outputs.score for output in llm.score(QUERY, DOCUMENTS, lora_request=request)]
            for request in (None, "mine")
        ]
    assert found[0] == pytest.approx(official_qwen3_scores(twin, QUERY, DOCUMENTS), abs=1e-5)
    assert found[1] == pytest.approx(official_qwen3_scores(merged, QUERY, DOCUMENTS), abs=1e-5)
