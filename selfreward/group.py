"""The processes of one run: which of them this is, and how they meet. One alone needs no torch for it.

Each process has a rank; the first, of rank 0, is the one that speaks, holds locks and writes manifests.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from selfreward.errors import ConfigError, PeerError, first_line

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_PATIENCE = timedelta(days=7)  # a process may wait for another's longest shard; one that ends is noticed at once
_MARKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_SHARDERS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DEEPSPEED"}
DIVIDED = "would cut the base model up, and sampling needs it whole on each device; use distributed_type: MULTI_GPU"


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them. `reducers` is torch's group for tensors on GPUs."""

    rank: int = 0
    size: int = 1
    reducers: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of `items`: each belongs to exactly one process."""
        return items[self.rank :: self.size]

    def broadcast(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all processes."""
        if self.size == 1:
            return make()
        import torch.distributed as dist

        box: list[Any] = [make() if self.leads else None]
        with _peers():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank, in all processes; none goes on before all have come here."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        boxes: list[Any] = [None] * self.size
        with _peers():
            dist.all_gather_object(boxes, value)
        return boxes

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, to the same bits in all of them. One transfer in all."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _peers():
            dist.all_reduce(flat, group=self.reducers)
        for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(summed.view_as(tensor))


ALONE = Group()


def local_processes() -> int:
    """How many processes of this run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def take_one_gpu() -> None:
    """Let this process see one GPU, its own. To be called before torch looks for any.

    With several in sight, transformers would spread each batch over them in its own way, which trl refuses.
    """
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = seen.split(",") if seen is not None else None
    own = int(os.environ.get("LOCAL_RANK", "0"))
    os.environ["CUDA_VISIBLE_DEVICES"] = (names[own] if own < len(names) else "") if names else seen or str(own)


def join(device: Callable[[], str]) -> Group:
    """The group that `accelerate launch` or `torchrun` started this process in; `device` says what it computes on.

    What they say in the environment is then taken back: each process trains as if it were alone, and no setting of
    theirs (mixed precision, for one) can change what is made.

    Raises `ConfigError` for launchers that cut the model up, and where there are fewer GPUs than processes.
    """
    for variable, kind in _SHARDERS.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ConfigError("distributed_type", kind, DIVIDED)
    size = int(os.environ.get("WORLD_SIZE", "1"))
    group = _connect(device()) if size > 1 else ALONE
    for variable in list(os.environ):
        if variable in _MARKS or variable.startswith(("ACCELERATE_", "FSDP_")):
            del os.environ[variable]
    return group


def _connect(device: str) -> Group:
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_PATIENCE)
    group = Group(dist.get_rank(), dist.get_world_size())
    devices = group.gather(device)
    if len(set(devices)) > 1:
        count = sum(name.startswith("cuda") for name in devices)
        raise ConfigError("launch.processes", group.size, f"only {count} of them found a GPU; use as many as there are")
    if device != "cuda":
        return group
    return Group(group.rank, group.size, dist.new_group(backend="nccl", timeout=_PATIENCE))


@contextmanager
def _peers() -> Iterator[None]:
    """Say it in one line where another process has ended in the middle of something they do together."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerError(f"another process of this run has ended ({first_line(error)})") from error
