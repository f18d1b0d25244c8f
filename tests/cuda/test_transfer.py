"""One copy a step: arrays of any shape come out as they went in, also while earlier copies may still run."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.cuda.transfer import ALIGNMENT, NUM_BUFFERS, Layout, Uploader, fetch

rows = st.lists(st.integers(0, 40), max_size=6)
tables = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6)), max_size=6)


@given(st.lists(st.tuples(rows, tables), min_size=1, max_size=NUM_BUFFERS + 2))
def test_what_goes_up_is_what_comes_out(steps: list) -> None:
    uploader, rng = Uploader(torch.device("cpu")), np.random.default_rng(0)
    for row_lens, shapes in steps:
        sent_rows = [rng.integers(0, 1 << 40, length) for length in row_lens]
        sent_tables = [rng.integers(0, 1000, shape).astype(np.int32) for shape in shapes]
        received = uploader.upload(sent_rows, sent_tables)
        for array, tensor in zip([*sent_rows, *sent_tables], received, strict=True):
            assert (tensor.shape, str(tensor.dtype)) == (array.shape, f"torch.{array.dtype}")
            assert tensor.data_ptr() % ALIGNMENT == 0
            np.testing.assert_array_equal(tensor.numpy(), array)


def test_tensors_of_one_step_survive_the_next_ones() -> None:
    uploader = Uploader(torch.device("cpu"))
    (first,) = uploader.upload([np.arange(5)], [])
    for size in range(2 * NUM_BUFFERS):
        uploader.upload([np.zeros(size << 12, np.int64)], [])  # buffers grow under way
    assert first.tolist() == [0, 1, 2, 3, 4]


def test_a_layout_with_room_is_filled_up_where_the_step_is_smaller() -> None:
    layout = Layout.fitting([5, 3], [7, 2], {1: 9, 2: -1})
    assert (layout.rows, layout.tables) == ((6, 4), (8, 4))
    target = torch.full((layout.num_bytes,), 77, dtype=torch.uint8)
    sent = [np.arange(1, 3), np.zeros(0, np.int64)], [np.array([[1, 2]], np.int32), np.array([5], np.int32)]
    received = Uploader(torch.device("cpu")).upload(*sent, layout, target)
    assert [tensor.tolist() for tensor in received] == [[1, 2], [], [[1, 2]], [5]]
    whole = [view.tolist() for view in layout.split(target)]
    assert whole == [[1, 2, 0, 0, 0, 0], [9, 9, 9, 9], [1, 2, -1, -1, -1, -1, -1, -1], [5, 0, 0, 0]]
    assert received[0].data_ptr() == target.data_ptr()


def test_fetch_returns_the_values() -> None:
    values = torch.tensor([[1.0], [2.0]])
    np.testing.assert_array_equal(fetch(values)(), [[1.0], [2.0]])
