"""Forward passes that compute once what texts begin with in common, and pad nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from selfreward.engines.local.cuda_graph import CudaGraph, can_capture
from selfreward.engines.local.forward import many_finished
from selfreward.engines.local.fused_norms import FusedNorms
from selfreward.engines.local.halving import halving
from selfreward.engines.local.passes import Piece
from selfreward.engines.local.ragged_keys import RaggedAnswerKeys
from selfreward.engines.local.shared_keys import SHARED_KEYS, AnswerKeys, TreeKeys, answer_keys
from selfreward.model.patched import attention_of, patched
from selfreward.model.prefix_tree import Node, prefix_tree

_REPLAYED_DROP_SHARE = 0.25
_CAPTURE_STEPS = 8
"""What a capture takes, in steps that are replayed."""


class SharedForward:
    """For models whose attention can be exchanged.

    Args:
        model: the causal model.
        tokens: the most tokens in one pass over given texts.
        check: called after each pass; raises where memory is short.
        cuda_graphs: have a GPU capture steps of decoding and replay them, where the model allows it.
    """

    def __init__(self, model: Any, tokens: int, check: Callable[[], None], *, cuda_graphs: bool = True) -> None:
        self.cuda_graphs = cuda_graphs and can_capture(model)
        self._model = model
        self._tokens = tokens
        self._check = check
        self._kernel = model.config._attn_implementation
        self.computed = 0
        self._norms = FusedNorms(model)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Exchange the model's attention and norms for as long as passes are made."""
        with attention_of(self._model, SHARED_KEYS), self._norms.ready():
            yield

    def drops(self, finished: int, rows: int, steps: int) -> bool:
        """Once they are many; where steps are replayed, not before what they would cost exceeds another capture."""
        if not self.cuda_graphs:
            return many_finished(finished, rows)
        return finished >= _REPLAYED_DROP_SHARE * rows and finished * steps > _CAPTURE_STEPS * rows

    def last_states(self, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
        """Of each row's last token."""
        tree = SharedPrompts(self, rows)
        compute = partial(tree.compute, keep=False)
        for batch, (state_PH, _) in halving(tree.batches(range(len(rows))), compute):
            yield batch, state_PH

    def states(self, rows: Sequence[list[int]]) -> Iterator[tuple[list[int], list[Tensor]]]:
        """Of all tokens; nothing is shared."""
        nodes = [Node(row, None, 0, place) for place, row in enumerate(rows)]
        batches = by_length({place: len(row) for place, row in enumerate(rows)}, self._tokens)
        compute = partial(_nodes_at, self, nodes)
        for batch, (state_NH, _) in halving(batches, compute):
            yield batch, list(state_NH.split([len(rows[row]) for row in batch]))

    def prompts(self, rows: Sequence[list[int]]) -> SharedPrompts:
        """What they share is computed at once."""
        return SharedPrompts(self, rows)

    def run(self, ids_BN: Tensor, positions_BN: Tensor, keys: Any) -> Tensor:
        """One pass: final states (B, N, H)."""
        output: Any = self._model.get_decoder()(input_ids=ids_BN, position_ids=positions_BN, use_cache=False, keys=keys)
        return output.last_hidden_state

    def count(self, tokens: int) -> None:
        """Say that a pass was made."""
        self.computed += tokens
        self._check()

    def run_nodes(
        self, nodes: Sequence[Node], before: Sequence[Sequence[Piece]], *, keep: bool, ends_only: bool
    ) -> tuple[Tensor, list[Piece]]:
        """States (N, H) of these nodes' tokens, one after the other, or of the last one of each; their keys and values,
        if they are to be kept."""
        device = self._model.device
        ids_N = torch.tensor([token for node in nodes for token in node.token_ids], device=device)
        positions_N = torch.cat([torch.arange(n.start, n.start + len(n.token_ids), device=device) for n in nodes])
        lengths = [len(node.token_ids) for node in nodes]
        keys = TreeKeys(lengths, before, self._kernel, keep=keep)
        ends_P = torch.tensor(lengths, device=device).cumsum(0) - 1
        with _only(self._model.get_decoder(), ends_P) if ends_only else nullcontext():
            state_NH = self.run(ids_N[None], positions_N[None], keys)[0]
        self.count(len(ids_N))
        return state_NH[ends_P] if ends_only else state_NH, keys.made

    @property
    def query_heads(self) -> int:
        """Of each layer's attention."""
        return self._model.config.get_text_config().num_attention_heads

    @property
    def device(self) -> torch.device:
        """On which all is computed."""
        return self._model.device

    @property
    def tokens(self) -> int:
        """The most tokens in one pass over given texts."""
        return self._tokens


class SharedPrompts:
    """Texts of which what several share was computed at once, and the rest is computed when it is asked for."""

    def __init__(self, forward: SharedForward, rows: Sequence[list[int]]) -> None:
        self._forward = forward
        self._nodes = prefix_tree(rows)
        self._leaves = {node.row: place for place, node in enumerate(self._nodes) if node.row is not None}
        self._made: dict[int, Piece] = {}
        for level in self._shared_levels():
            lengths = {place: len(self._nodes[place].token_ids) for place in level}
            for batch, (_, made) in halving(by_length(lengths, forward.tokens), self._compute):
                self._made.update(zip(batch, made, strict=True))

    def batches(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """The rows in batches, the longest first."""
        return by_length({row: len(self._nodes[self._leaves[row]].token_ids) for row in rows}, self._forward.tokens)

    def compute(self, batch: Sequence[int], *, keep: bool = True) -> tuple[Tensor, list[Piece]]:
        """The last states (P, H) of these rows; the keys and values of their own parts, if they are to be kept."""
        return self._compute([self._leaves[row] for row in batch], keep=keep)

    def open(self, batch: Sequence[int], answers: int, steps: int) -> tuple[Tensor, SharedAnswers]:
        """Answers to the rows of a batch."""
        states: dict[int, Tensor] = {}
        own: dict[int, Piece] = {}
        for part, (state_PH, made) in halving(self.batches(batch), self.compute):
            states.update(zip(part, state_PH, strict=True))
            own.update(zip(part, made, strict=True))
        chains = [self._chain(self._nodes[self._leaves[row]]) for row in batch]
        shared = next(
            (i for i, step in enumerate(zip(*chains, strict=False)) if len(set(step)) > 1), min(map(len, chains))
        )
        common = [self._made[place] for place in chains[0][:shared]]
        rest = [
            [*(self._made[place] for place in chain[shared:]), own[row]]
            for chain, row in zip(chains, batch, strict=True)
        ]
        lengths = [self._length(row) for row in batch]
        keys = answer_keys(common, rest, answers, steps, self._forward.device, self._forward.query_heads)
        return torch.stack([states[row] for row in batch]), SharedAnswers(self._forward, keys, lengths, answers)

    def _shared_levels(self) -> Iterable[list[int]]:
        """The places of what several rows share, level by level: parents come before their children in the tree."""
        levels: defaultdict[int, list[int]] = defaultdict(list)
        for place, node in enumerate(self._nodes):
            if node.row is None:
                levels[len(self._chain(node))].append(place)
        return levels.values()

    def _compute(self, places: Sequence[int], *, keep: bool = True) -> tuple[Tensor, list[Piece]]:
        nodes = [self._nodes[place] for place in places]
        return self._forward.run_nodes(nodes, [self._before(node) for node in nodes], keep=keep, ends_only=True)

    def _length(self, row: int) -> int:
        node = self._nodes[self._leaves[row]]
        return node.start + len(node.token_ids)

    def _chain(self, node: Node) -> list[int]:
        """The places of what comes before a node, the first one first."""
        chain: list[int] = []
        parent = node.parent
        while parent is not None:
            chain.insert(0, parent)
            parent = self._nodes[parent].parent
        return chain

    def _before(self, node: Node) -> list[Piece]:
        return [self._made[place] for place in self._chain(node)]


class SharedAnswers:
    """Answers to prompts whose keys and values are there."""

    def __init__(
        self, forward: SharedForward, keys: AnswerKeys | RaggedAnswerKeys, lengths: Sequence[int], answers: int
    ) -> None:
        self._forward = forward
        self._keys = keys
        device = keys.device
        self._position_B1 = torch.tensor(lengths, device=device).repeat_interleave(answers)[:, None]
        self._token_B1 = torch.zeros_like(self._position_B1)
        self._graph = CudaGraph() if forward.cuda_graphs else None

    def step(self, token_B: Tensor) -> Tensor:
        """One more token each. The states are overwritten by the next step."""
        if self._keys.make_room() and self._graph:
            self._graph.forget()
        self._token_B1.copy_(token_B[:, None])
        state_BH = self._graph(self._compute) if self._graph else self._compute()
        self._forward.count(len(token_B))
        return state_BH

    def keep(self, rows: Tensor) -> None:
        """Drop all answers but these."""
        self._keys.keep(rows)
        self._position_B1, self._token_B1 = self._position_B1[rows], self._token_B1[rows]
        if self._graph:
            self._graph.forget()

    def _compute(self) -> Tensor:
        state_B1H = self._forward.run(self._token_B1, self._position_B1, self._keys)
        self._keys.advance()
        self._position_B1 += 1
        return state_B1H[:, 0]


def by_length(lengths: Mapping[int, int], tokens: int) -> Iterator[list[int]]:
    """What these lengths belong to, in batches of at most `tokens` tokens, or of one; the longest first."""
    batch: list[int] = []
    total = 0
    for row in sorted(lengths, key=lengths.__getitem__, reverse=True):
        if batch and total + lengths[row] > tokens:
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += lengths[row]
    if batch:
        yield batch


def _nodes_at(forward: SharedForward, nodes: Sequence[Node], batch: Sequence[int]) -> Any:
    return forward.run_nodes([nodes[place] for place in batch], [[] for _ in batch], keep=False, ends_only=False)


def _only(decoder: Any, places_P: Tensor) -> AbstractContextManager[None]:
    """Have the last layer's feed-forward computed at these places of a row alone: no state but theirs is read.

    One with routed experts, or under another name than most models give it, is left as it is.
    """
    feed_forward: Any = getattr(getattr(decoder, "layers", [None])[-1], "mlp", None)
    if not hasattr(feed_forward, "down_proj"):
        return nullcontext()
    whole = feed_forward.forward

    def at_places(x_1NH: Tensor) -> Tensor:
        return torch.zeros_like(x_1NH).index_copy_(1, places_P, whole(x_1NH[:, places_P]))

    return patched(feed_forward, at_places)
