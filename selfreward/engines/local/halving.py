"""Batches that give way when memory runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from selfreward.cap import is_out_of_memory, release
from selfreward.errors import OutOfMemoryError

Result = TypeVar("Result")


def halving(batches: Iterable[list[int]], compute: Callable[[list[int]], Result]) -> Iterator[tuple[list[int], Result]]:
    """Each batch with what `compute` makes of it. Where memory runs out, its halves take the batch's place.

    Raises the error where a batch of one is too much.
    """
    waiting = deque(batches)
    while waiting:
        batch = waiting.popleft()
        try:
            result = compute(batch)
        except (OutOfMemoryError, MemoryError, RuntimeError) as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        else:
            yield batch, result
            del result  # or it would be held while the next one is computed
            continue
        release()  # past the handler, or the error's traceback would hold on to the tensors
        middle = (len(batch) + 1) // 2
        waiting.extendleft((batch[middle:], batch[:middle]))
