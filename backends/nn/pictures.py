"""Pictures in the steps of a decoder: positions on three axes, and rows of features in the place of words.

T tokens of the step, n rows of pictures, D hidden size, H head size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.backends.loading.parameters import Parameters
from engine.backends.nn.decoder_layers import Rotary
from engine.backends.nn.rotary import rope_settings
from engine.backends.nn.vision_tower import VisionShape, VisionTower, patches_of
from engine.backends.packed_batch import PackedBatch, PackedPicture
from engine.errors import ModelLoadError
from engine.model_spec import ModelSpec

USUAL_SECTIONS = {True: (24, 20, 20), False: (16, 24, 24)}
"""Frequencies that turn with time, height and width, of a head of 128 numbers, interleaved and not."""


class Pictures:
    """The computations of a decoder on the pictures in its steps."""

    def __init__(
        self, params: Parameters, spec: ModelSpec, head_dim: int, prefix: str, shape: VisionShape, *, interleaved: bool
    ) -> None:
        """``prefix``: of the tower's tensors. ``interleaved``: the axes take turns among the frequencies, where else
        each has a run of them. Raises ``ModelLoadError`` about what is not computed."""
        assert spec.vision is not None
        self.shape = shape
        if self.shape.out != spec.config["hidden_size"]:
            raise ModelLoadError(
                f"{spec.path}: rows of pictures have {self.shape.out} numbers (by vision_config), and those of words "
                f"{spec.config['hidden_size']}"
            )
        self.tower = VisionTower(params, self.shape, prefix)
        self.mean, self.std = (
            torch.tensor(values, device=params.device) for values in (spec.vision.mean, spec.vision.std)
        )
        self.axis_of = axis_of_frequencies(spec, head_dim, interleaved=interleaved).to(params.device)
        self._kept: dict[str, list[torch.Tensor]] = {}
        """Features of the last step's pictures: one that is longer than a step goes on in the next."""

    def rotary(self, rotary: Rotary, axes: torch.Tensor) -> Rotary:
        """(T, 3) positions -> tables with a row for each token of the step, each frequency turned by its own axis."""
        places = axes[:, self.axis_of]
        return Rotary(rotary.cos.gather(0, places), rotary.sin.gather(0, places))

    def features(self, batch: PackedBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(n,) rows of the step, and (n, D) what stands there: in the place of the words, then what is added behind
        each of the first layers."""
        kept = {picture.key: self._kept.get(picture.key) or self._levels(picture) for picture in batch.pictures}
        self._kept = kept
        rows = torch.cat([picture.rows for picture in batch.pictures])
        picked = [[level[picture.features] for level in kept[picture.key]] for picture in batch.pictures]
        return rows, [torch.cat(levels) for levels in zip(*picked, strict=True)]

    def _levels(self, picture: PackedPicture) -> list[torch.Tensor]:
        height, width = (side // self.shape.patch for side in picture.pixels.shape[:2])
        return self.tower(patches_of(picture.pixels, self.shape, self.mean, self.std), height, width)


def axis_of_frequencies(spec: ModelSpec, head_dim: int, *, interleaved: bool) -> torch.Tensor:
    """(H/2,) int64: which axis turns each frequency. ``interleaved``: in turn as far as ``mrope_section`` goes, and the
    rest is time's; else a run each.

    Raises ``ModelLoadError`` where the sections do not fit the head.
    """
    sections: Sequence[int] = rope_settings(spec.config).get("mrope_section") or USUAL_SECTIONS[interleaved]
    half = head_dim // 2
    if len(sections) != 3 or sum(sections) != half:
        raise ModelLoadError(
            f"{spec.path}: mrope_section {list(sections)} does not divide the {half} frequencies of a head"
        )
    if not interleaved:
        return torch.repeat_interleave(torch.arange(3), torch.tensor(sections))
    axes = torch.zeros(half, dtype=torch.int64)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    return axes
