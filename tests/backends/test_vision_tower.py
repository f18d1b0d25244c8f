"""The vision tower of Qwen3-VL gives the rows of transformers' own, and pictures become the same patches."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from engine.backends.cpu.backend import CpuBackend
from engine.backends.loading.parameters import Parameters
from engine.backends.nn.vision_tower import VisionShape, VisionTower, patches_of
from engine.errors import ModelLoadError
from engine.kernels.ops import Ops
from engine.kernels.reference import ReferenceOps
from tests.support.random_models import randomise

CONFIGS: dict[str, dict[str, Any]] = {
    "small": {
        "depth": 3, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 40, "patch_size": 4,
        "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2],
    },
    "heads of 72, as published": {
        "depth": 2, "hidden_size": 144, "intermediate_size": 100, "num_heads": 2, "out_hidden_size": 24,
        "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [1],
    },
}  # fmt: skip
GRIDS = ((2, 2), (6, 4), (14, 2), (8, 10))


@cache
def reference(name: str) -> Any:
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    tower = Qwen3VLVisionModel(transformers.Qwen3VLConfig(vision_config=CONFIGS[name]).vision_config).eval()
    randomise(tower, 3)
    return tower


def built(tower: Any, config: dict[str, Any], ops: Ops) -> VisionTower:
    params = Parameters(ops, device=torch.device("cpu"), dtype=torch.float32, tensors=None)
    found = VisionTower(params, VisionShape.of(config), "visual.")
    state = {f"visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    assert {destination.name for destination in params.destinations} == set(state)
    for destination in params.destinations:
        assert destination.shape == tuple(state[destination.name].shape)
        destination.take(0, state[destination.name])
    return found


@pytest.mark.parametrize("kind", ["reference", "cpu"])
@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_rows_are_those_of_transformers(name: str, kind: str) -> None:
    tower, config = reference(name), CONFIGS[name]
    ops = ReferenceOps() if kind == "reference" else CpuBackend().make_ops(torch.device("cpu"), torch.float32, None)[0]
    ours = built(tower, config, ops)
    generator = torch.Generator().manual_seed(1)
    for height, width in GRIDS:
        patches = torch.rand(height * width, 6 * config["patch_size"] ** 2, generator=generator) * 2 - 1
        expected = tower(patches, grid_thw=torch.tensor([[1, height, width]]), return_dict=True)
        rows, *deeper = ours(patches, height, width)
        assert len(deeper) == len(config["deepstack_visual_indexes"])
        for mine, its in zip((rows, *deeper), (expected.pooler_output, *expected.deepstack_features), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)


def test_patches_are_those_of_the_image_processor() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    pixels = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, image_mean=[0.5, 0.4, 0.5], image_std=[0.5, 0.5, 0.3], do_resize=False
    )
    expected = processor(pixels, return_tensors="np")
    assert expected["image_grid_thw"].tolist() == [[1, 6, 4]]
    mean, std = torch.tensor([0.5, 0.4, 0.5]), torch.tensor([0.5, 0.5, 0.3])
    shape = VisionShape.of(CONFIGS["heads of 72, as published"])
    found = patches_of(torch.from_numpy(pixels), shape, mean, std).numpy()
    np.testing.assert_allclose(found, expected["pixel_values"], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters"),
        ({"num_heads": 5}, "5 heads"),
    ],
)
def test_a_tower_that_is_not_computed_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelLoadError, match=named):
        VisionShape.of(CONFIGS["small"] | change)
