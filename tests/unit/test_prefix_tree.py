"""What texts begin with in common is in the tree once, and every text can be read off it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from selfreward.model.prefix_tree import LEAST_SHARED, Node, prefix_tree

RUBRIC = list(range(100, 150))
REQUESTS = [list(range(200, 220)), list(range(300, 320))]


def read(nodes: list[Node], leaf: Node) -> list[int]:
    """The text that ends in a leaf."""
    before = [] if leaf.parent is None else read(nodes, nodes[leaf.parent])
    assert leaf.start == len(before)
    return before + leaf.token_ids


# Few tokens and long runs of them, so that texts often begin alike, equal each other, or go on from each other.
texts = st.lists(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=30).map(lambda t: [5] * 12 + t), max_size=8)


@given(texts)
def test_every_text_ends_in_a_leaf_of_its_own_and_parents_come_before_their_children(rows: list[list[int]]) -> None:
    nodes = prefix_tree(rows)
    leaves = {node.row: read(nodes, node) for node in nodes if node.row is not None}
    assert leaves == dict(enumerate(rows))
    assert all(node.parent is None or node.parent < place for place, node in enumerate(nodes))
    assert all(node.token_ids for node in nodes)


@given(texts)
def test_what_is_shared_is_long_enough_to_be_worth_a_node(rows: list[list[int]]) -> None:
    assert all(len(node.token_ids) >= LEAST_SHARED for node in prefix_tree(rows) if node.row is None)


def test_a_rubric_is_there_once_and_each_request_once_for_its_candidates() -> None:
    rows = [RUBRIC + request + [7, candidate] for request in REQUESTS for candidate in range(4)]
    nodes = prefix_tree(rows)
    assert sum(len(node.token_ids) for node in nodes) == 50 + 2 * (20 + 1) + 8
    shared = [node for node in nodes if node.row is None]
    assert [len(node.token_ids) for node in shared] == [50, 21, 21]
    assert [node.parent for node in shared] == [None, 0, 0]


def test_equal_texts_share_all_but_their_last_token() -> None:
    nodes = prefix_tree([RUBRIC, RUBRIC])
    assert [len(node.token_ids) for node in nodes] == [49, 1, 1]


def test_texts_with_little_in_common_share_nothing() -> None:
    rows = [[1] * (LEAST_SHARED - 1) + [2, 3], [1] * (LEAST_SHARED - 1) + [4, 5]]
    assert [node.parent for node in prefix_tree(rows)] == [None, None]


def test_no_texts_make_no_tree() -> None:
    assert prefix_tree([]) == []
