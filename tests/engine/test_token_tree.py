"""The tree says the same as the pairs, with every shared run once."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.token_tree import Segment, TreeBuilder

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=24)


def arrays(pairs: list[list[int]]) -> list[np.ndarray]:
    return [np.array(pair, np.int32) for pair in pairs]


def path(segment: Segment | None) -> list[int]:
    ids: list[int] = []
    while segment is not None:
        ids = segment.token_ids.tolist() + ids
        segment = segment.parent
    return ids


def spelled(roots: list[Segment]) -> dict[int, list[int]]:
    """Pair -> the tokens on its path; fails on a pair that is read twice."""
    found: dict[int, list[int]] = {}
    for root in roots:
        for segment in root.descend():
            for pair in segment.pairs:
                assert pair not in found
                found[pair] = path(segment)
    return found


@given(
    st.lists(TOKENS, min_size=1, max_size=12),
    st.lists(st.integers(0, 3), max_size=4),
    st.integers(1, 6),
    st.integers(1, 5),
)
def test_every_pair_is_spelled_exactly_once(
    pairs: list[list[int]], stem: list[int], chunk: int, min_shared: int
) -> None:
    stem_segment = Segment(np.array(stem, np.int32), None) if stem else None
    roots = TreeBuilder(chunk, min_shared, share=True).build(arrays(pairs), stem_segment)
    assert spelled(roots) == dict(enumerate(pairs))
    for root in roots:
        for segment in root.descend():
            assert 0 < len(segment) <= chunk
            assert segment.position == len(path(segment.parent))
            assert segment.num_unfinished_children == len(segment.children)
            assert segment.pairs or segment.children, "a segment that nobody needs"


@given(st.lists(TOKENS, min_size=1, max_size=12))
def test_with_the_lowest_threshold_no_two_siblings_begin_alike(pairs: list[list[int]]) -> None:
    roots = TreeBuilder(1000, 1, share=True).build(arrays(pairs))
    stack = [roots]
    while stack:
        siblings = stack.pop()
        starts = [int(segment.token_ids[0]) for segment in siblings]
        assert len(starts) == len(set(starts))
        stack.extend(segment.children for segment in siblings)


def test_documents_of_one_query_hang_under_one_segment() -> None:
    query = list(range(100, 190))
    pairs = [[*query, 1000 + i, *range(20)] for i in range(50)]
    roots = TreeBuilder(4096, 8, share=True).build(arrays(pairs))
    assert len(roots) == 1
    assert roots[0].token_ids.tolist() == query
    assert sum(len(segment) for segment in roots[0].descend()) == 90 + 50 * 21


def test_short_coincidences_are_not_split() -> None:
    pairs = [[*range(50), 7, 7, i] for i in range(4)] + [[*range(50), 8, i] for i in range(4)]
    roots = TreeBuilder(4096, 8, share=True).build(arrays(pairs))
    assert [len(segment) for segment in roots] == [50]
    assert sorted(len(leaf) for leaf in roots[0].children) == [2, 2, 2, 2, 3, 3, 3, 3]


def test_equal_documents_are_one_segment() -> None:
    roots = TreeBuilder(4096, 8, share=True).build(arrays([[1, 2, 3]] * 3 + [[1, 2, 3, 4]]))
    assert spelled(roots) == {0: [1, 2, 3], 1: [1, 2, 3], 2: [1, 2, 3], 3: [1, 2, 3, 4]}
    assert sum(1 for root in roots for segment in root.descend() if segment.pairs) == 2


def test_the_stem_is_the_parent_of_what_begins_with_it() -> None:
    stem = Segment(np.arange(10, dtype=np.int32), None)
    roots = TreeBuilder(4096, 2, share=True).build(arrays([[*range(10), 50, 51], [*range(9), 77], [*range(10)]]), stem)
    assert {tuple(path(root)): root.parent is stem for root in roots} != {}
    assert [root.parent is stem for root in roots if path(root)[:10] == list(range(10)) and len(path(root)) > 10] == [
        True
    ]
    assert stem.children == []


def test_the_query_hint_is_a_border_only_where_it_holds() -> None:
    pairs = arrays([[*range(30), 5, 6, 7], [*range(30), 5, 6, 8]])
    roots = TreeBuilder(4096, 8, share=True, cut_at_query=True).build(pairs, query_lens=[30, 30])
    assert [len(roots[0]), roots[0].is_query_end] == [30, True]
    wrong = TreeBuilder(4096, 8, share=True, cut_at_query=True).build(pairs, query_lens=[33, 33])
    assert spelled(wrong) == {0: pairs[0].tolist(), 1: pairs[1].tolist()}


def test_without_sharing_every_distinct_pair_is_one_segment() -> None:
    types = arrays([[0, 0, 1], [0, 1, 1], [0, 0, 1]])
    roots = TreeBuilder(2, 1, share=False).build(arrays([[1, 2, 3]] * 3), token_types=types)
    assert [(len(root), root.pairs) for root in roots] == [(3, [0, 2]), (3, [1])]


def test_many_documents_cost_little() -> None:
    """Depth follows shared runs, not the number of pairs."""
    pairs = [[*range(i + 1)] for i in range(600)]
    roots = TreeBuilder(4096, 8, share=True).build(arrays(pairs))
    assert spelled(roots) == dict(enumerate(pairs))
