"""The tree says the same as the pairs, with every shared run once."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.token_tree import Leaves, Node, Segment
from engine.scheduling.tree_builder import TreeBuilder, leaves_of, segments_of, total_tokens

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=24)


def build(
    builder: TreeBuilder,
    pairs: list[list[int]],
    constant_prefix: Segment | None = None,
    *,
    types: list[list[int]] | None = None,
    query_lens: list[int] | None = None,
    members: list[int] | None = None,
) -> list[Node]:
    return builder.build(
        flat(pairs),
        np.array([len(pair) for pair in pairs], np.int32),
        constant_prefix,
        token_types=None if types is None else flat(types),
        query_lens=None if query_lens is None else np.array(query_lens),
        members=None if members is None else np.array(members),
    )


def flat(pairs: list[list[int]]) -> np.ndarray:
    return np.array([token for pair in pairs for token in pair], np.int32)


def path(segment: Segment | None) -> list[int]:
    ids: list[int] = []
    while segment is not None:
        ids = segment.token_ids.tolist() + ids
        segment = segment.parent
    return ids


def own_tokens(leaves: Leaves) -> list[list[int]]:
    """Of each leaf."""
    return [run.tokens(leaves.token_ids).tolist() for run in leaves.all().one_by_one()]


def spelled(roots: list[Node]) -> dict[int, list[int]]:
    """Pair -> the tokens on its path; fails on a pair that is read twice."""
    found: dict[int, list[int]] = {}

    def enter(pairs: list[int], tokens: list[int]) -> None:
        for pair in pairs:
            assert pair not in found
            found[pair] = tokens

    for segment in segments_of(roots):
        enter(segment.pairs, path(segment))
    for leaves in leaves_of(roots):
        for run, tokens in zip(leaves.all().one_by_one(), own_tokens(leaves), strict=True):
            enter(run.pairs.tolist(), path(leaves.parent) + tokens)
    return found


def below(segment: Segment) -> int:
    return len(segment.children) + sum(leaves.num_leaves for leaves in segment.leaves)


@given(
    st.lists(TOKENS, min_size=1, max_size=12),
    st.lists(st.integers(0, 3), max_size=4),
    st.integers(1, 6),
    st.integers(1, 5),
)
def test_every_pair_is_spelled_exactly_once(
    pairs: list[list[int]], constant_prefix: list[int], chunk: int, min_shared: int
) -> None:
    constant_prefix_segment = Segment(np.array(constant_prefix, np.int32), None) if constant_prefix else None
    roots = build(TreeBuilder(chunk, min_shared, share=True), pairs, constant_prefix_segment)
    assert spelled(roots) == dict(enumerate(pairs))
    lengths = [len(segment) for segment in segments_of(roots)]
    for segment in segments_of(roots):
        assert segment.position == len(path(segment.parent))
        assert segment.num_unfinished_children == segment.num_waiting_children == below(segment) > 0
    for leaves in leaves_of(roots):
        lengths += leaves.lens.tolist()
        tokens = own_tokens(leaves)
        assert leaves.all().tokens(leaves.token_ids).tolist() == [*chain(*tokens)]
        assert all(len(run.pairs) for run in leaves.all().one_by_one()), "a leaf that nobody needs"
    assert 0 < min(lengths) <= max(lengths) <= chunk
    assert sum(lengths) == total_tokens(roots)


@given(st.lists(TOKENS, min_size=1, max_size=12), st.lists(st.integers(1, 24), min_size=12, max_size=12), st.data())
def test_a_tree_of_some_pairs_spells_those_whatever_the_hints_say(
    pairs: list[list[int]], hints: list[int], data: st.DataObject
) -> None:
    members = sorted(data.draw(st.sets(st.integers(0, len(pairs) - 1), min_size=1)))
    builder = TreeBuilder(7, 3, share=True, cut_at_query=True)
    roots = build(builder, pairs, query_lens=hints[: len(pairs)], members=members)
    assert spelled(roots) == {i: pairs[i] for i in members}


@given(st.lists(TOKENS, min_size=1, max_size=12))
def test_with_the_lowest_threshold_no_two_siblings_begin_alike(pairs: list[list[int]]) -> None:
    def check(siblings: list[Node]) -> None:
        starts = [int(node.token_ids[0]) for node in siblings if isinstance(node, Segment)]
        starts += [tokens[0] for node in siblings if isinstance(node, Leaves) for tokens in own_tokens(node)]
        assert len(starts) == len(set(starts))

    roots = build(TreeBuilder(1000, 1, share=True), pairs)
    check(roots)
    for segment in segments_of(roots):
        check(segment.below())


def test_documents_of_one_query_hang_under_one_segment() -> None:
    query = list(range(100, 190))
    pairs = [[*query, 1000 + i, *range(20)] for i in range(50)]
    roots = build(TreeBuilder(4096, 8, share=True), pairs)
    (root,) = segments_of(roots)
    assert root.token_ids.tolist() == query
    assert total_tokens(roots) == 90 + 50 * 21


def test_short_coincidences_are_not_split() -> None:
    pairs = [[*range(50), 7, 7, i] for i in range(4)] + [[*range(50), 8, i] for i in range(4)]
    (root,) = segments_of(build(TreeBuilder(4096, 8, share=True), pairs))
    assert len(root) == 50
    assert sorted(root.leaves[0].lens.tolist()) == [2, 2, 2, 2, 3, 3, 3, 3]


def test_equal_documents_are_one_segment() -> None:
    roots = build(TreeBuilder(4096, 8, share=True), [[1, 2, 3]] * 3 + [[1, 2, 3, 4]])
    assert spelled(roots) == {0: [1, 2, 3], 1: [1, 2, 3], 2: [1, 2, 3], 3: [1, 2, 3, 4]}
    assert [leaves.num_leaves for leaves in leaves_of(roots)] == [2]


def test_the_constant_prefix_is_the_parent_of_what_begins_with_it() -> None:
    constant_prefix = Segment(np.arange(10, dtype=np.int32), None)
    roots = build(
        TreeBuilder(4096, 2, share=True), [[*range(10), 50, 51], [*range(9), 77], [*range(10)]], constant_prefix
    )
    assert [(root.parent is constant_prefix, below(root)) for root in segments_of(roots)] == [(False, 2)]
    assert [(leaves.parent is constant_prefix, own_tokens(leaves)) for leaves in leaves_of(roots)] == [
        (True, [[50, 51]]),
        (False, [[9], [77]]),
    ]
    assert below(constant_prefix) == 0


@pytest.mark.parametrize("length", [9, 10, 11, 40])
def test_a_pair_alone_has_the_tree_that_it_has_among_others(length: int) -> None:
    constant_prefix = Segment(np.arange(10, dtype=np.int32), None)
    builder, pair = TreeBuilder(16, 2, share=True), list(range(length))
    alone, among = build(builder, [pair], constant_prefix), build(builder, [pair, [77]], constant_prefix, members=[0])
    assert spelled(alone) == spelled(among) == {0: pair}
    assert [leaves.lens.tolist() for leaves in leaves_of(alone)] == [
        leaves.lens.tolist() for leaves in leaves_of(among)
    ]


def test_the_query_hint_is_a_border_only_where_it_holds() -> None:
    pairs = [[*range(30), 5, 6, 7], [*range(30), 5, 6, 8]]
    first, *_ = segments_of(build(TreeBuilder(4096, 8, share=True, cut_at_query=True), pairs, query_lens=[30, 30]))
    assert [len(first), first.is_query_end] == [30, True]
    wrong = build(TreeBuilder(4096, 8, share=True, cut_at_query=True), pairs, query_lens=[33, 33])
    assert spelled(wrong) == dict(enumerate(pairs))


def test_without_sharing_every_distinct_pair_is_one_segment() -> None:
    builder, types = TreeBuilder(2, 1, share=False), [[0, 0, 1], [0, 1, 1], [0, 0, 1]]
    (leaves,) = leaves_of(build(builder, [[1, 2, 3]] * 3, types=types))
    runs = list(leaves.all().one_by_one())
    assert [(run.num_tokens, run.pairs.tolist()) for run in runs] == [(3, [0, 2]), (3, [1])]
    assert leaves.token_type_ids is not None
    assert [run.tokens(leaves.token_type_ids).tolist() for run in runs] == types[:2]


def test_many_documents_cost_little() -> None:
    """Depth follows shared runs, not the number of pairs."""
    pairs = [[*range(i + 1)] for i in range(600)]
    roots = build(TreeBuilder(4096, 8, share=True), pairs)
    assert spelled(roots) == dict(enumerate(pairs))
