"""One copy a step: arrays of any shape come out as they went in, also while earlier copies may still run."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.cuda.transfer import ALIGNMENT, NUM_BUFFERS, Uploader, fetch, layout

arrays = st.lists(
    st.tuples(st.sampled_from([np.int32, np.int64, np.float32]), st.integers(0, 40), st.integers(1, 3)), max_size=6
)


@given(st.lists(arrays, min_size=1, max_size=NUM_BUFFERS + 2))
def test_what_goes_up_is_what_comes_out(steps: list) -> None:
    uploader, rng = Uploader(torch.device("cpu")), np.random.default_rng(0)
    for step in steps:
        sent = [rng.integers(0, 1000, (rows, columns)).astype(dtype) for dtype, rows, columns in step]
        received = uploader.upload(sent)
        for array, tensor in zip(sent, received, strict=True):
            assert tensor.shape == array.shape
            np.testing.assert_array_equal(tensor.numpy(), array)


def test_tensors_of_one_step_survive_the_next_ones() -> None:
    uploader = Uploader(torch.device("cpu"))
    (first,) = uploader.upload([np.arange(5, dtype=np.int32)])
    for _ in range(2 * NUM_BUFFERS):
        uploader.upload([np.zeros(5, np.int32)])
    assert first.tolist() == [0, 1, 2, 3, 4]


def test_layout_is_aligned_and_without_overlap() -> None:
    sizes: list[np.ndarray] = [np.zeros(3, np.int32), np.zeros(0, np.int64), np.zeros((5, 2), np.int64)]
    starts, total = layout(sizes)
    assert starts == [0, 16, 16]
    assert total == 96
    assert all(start % ALIGNMENT == 0 for start in starts)


def test_fetch_returns_the_values() -> None:
    values = torch.tensor([[1.0], [2.0]])
    np.testing.assert_array_equal(fetch(values)(), [[1.0], [2.0]])
