"""Batches of rows that are filled up to the longest of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def padded_batches(lengths: Sequence[int], most_tokens: int) -> Iterator[list[int]]:
    """The rows by their places, longest first; a batch of several has at most so many tokens, padding included."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
