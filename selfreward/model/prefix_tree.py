"""What texts begin with in common, so that it is computed once: a tree whose leaves are the texts' own last parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

LEAST_SHARED = 8
"""Tokens worth a node of their own; below, a node costs more than it saves."""


@dataclass(frozen=True)
class Node:
    """Tokens that come after those of `parent` (a node's place in the tree, or None) at position `start`.

    `row` is the text that ends here; None for what several texts share.
    """

    token_ids: list[int]
    parent: int | None
    start: int
    row: int | None


def prefix_tree(rows: Sequence[list[int]]) -> list[Node]:
    """Nodes, parents before their children. Each row ends in a leaf of its own, of one token at least."""
    nodes: list[Node] = []
    everything = sorted(range(len(rows)), key=lambda row: rows[row])
    waiting: list[tuple[list[int], int, int | None]] = [(everything, 0, None)] if rows else []
    while waiting:
        group, start, parent = waiting.pop()
        if len(group) == 1:
            nodes.append(Node(rows[group[0]][start:], parent, start, group[0]))
            continue
        shared = _shared([rows[row] for row in group])
        if shared - start >= LEAST_SHARED:
            nodes.append(Node(rows[group[0]][start:shared], parent, start, None))
            start, parent = shared, len(nodes) - 1
        # A row that ends here is a leaf by itself, also where another one is equal to it or goes on from it.
        for _, part in groupby(group, key=lambda row: (rows[row][shared], row if len(rows[row]) == shared + 1 else -1)):
            waiting.append((list(part), start, parent))
    return nodes


def _shared(group: Sequence[list[int]]) -> int:
    """How many first tokens a sorted group shares, at least one token of each left over."""
    first, last = group[0], group[-1]
    limit = min(len(row) for row in group) - 1
    return next((i for i in range(limit) if first[i] != last[i]), limit)
