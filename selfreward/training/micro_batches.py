"""Optimiser steps in micro-batches whose size does not change the result, and which give way when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from trl.trainer.base_trainer import _BaseTrainer

from selfreward.cap import check_resident, is_out_of_memory, release
from selfreward.errors import OutOfMemoryError, TrainingError, first_line
from selfreward.group import Group
from selfreward.store import derive_seed

Batch = dict[str, Tensor]


class MicroBatches(_BaseTrainer):
    """Put before one of trl's trainers, it takes each optimiser step on all its examples, a few at a time.

    trl is handed the whole batch of a step, and its loss is called on a micro-batch at a time, weighted by its share
    of the examples. When memory runs out, the micro-batch is halved and the step is taken again from its beginning.

    Each process of `group` is handed the same batch and takes its share of the examples. Their gradients are added up
    once a step, so that no process need know how another cuts its share, or whether it has one.

    Set after construction: `micro_batch` (examples), `ram_gb` (GiB of main memory, or None), `splits` (False for losses
    that compare the examples of a batch), `note` (told of each halving), `group`.
    """

    example = "example"
    """What people call one."""

    settings_key: str
    """The key of its settings, by which errors call them."""

    length_key: str
    """The setting that makes its examples shorter."""

    micro_batch: int
    ram_gb: float | None
    splits: bool
    note: Callable[[str], None]
    group: Group
    _at_once: int
    _metrics: Any
    _total_train_tokens: int

    def count(self, batch: Batch) -> int:
        """The examples of a batch."""
        raise NotImplementedError

    def cut(self, batch: Batch, taken: Sequence[int], size: int) -> Iterator[Batch]:
        """The examples `taken` in micro-batches of `size`, or fewer."""
        raise NotImplementedError

    def tokens(self, row: dict[str, Any]) -> int:
        """The tokens of a row of the data set."""
        raise NotImplementedError

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> Tensor:
        """The gradient of a whole step's mean loss, accumulated. Returns that loss, detached."""
        model.train()
        inputs = self._prepare_inputs(inputs)  # pyright: ignore[reportAssignmentType]
        if self.group.size > 1:  # dropout is another in each process, and the same again after a checkpoint
            torch.manual_seed(derive_seed(self.args.seed, self.state.global_step, self.group.rank))
        random, tokens = _random_state(), self._total_train_tokens
        while True:
            try:
                loss, examples = self._accumulate(model, inputs)
                break
            except (OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # Past the handler, or the error's traceback would hold on to the tensors of the failed step.
            model.zero_grad()
            self._metrics["train"].clear()
            self._total_train_tokens = tokens
            release()
            self._halve(reason)
            _restore_random_state(random)
        return self._add_up(model, loss, examples, tokens) if self.group.size > 1 else loss

    def preflight(self) -> None:
        """Run the longest batch forward and backward and forget it, so that what fails fails at once."""
        if self.args.gradient_checkpointing:  # transformers switches it on in `train`
            how = self.args.gradient_checkpointing_kwargs
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)  # pyright: ignore
        rows = sorted(self.train_dataset, key=self.tokens, reverse=True)  # pyright: ignore
        random = _random_state()
        self.training_step(self.model, self.data_collator(rows[: self.args.per_device_train_batch_size]))  # pyright: ignore
        self.model.zero_grad()  # pyright: ignore[reportOptionalMemberAccess]
        self._metrics["train"].clear()
        self._total_train_tokens = 0
        _restore_random_state(random)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Say it in one line where the disk is full, of which libraries make errors of their own."""
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            remedy = "make room there; the same command goes on from the checkpoint before"
            raise TrainingError(
                f"no checkpoint could be written to {self.args.output_dir} ({first_line(error)}): {remedy}"
            ) from error

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: a checkpoint lives for minutes."""

    def _accumulate(self, model: Any, inputs: Batch) -> tuple[Tensor, int]:
        """The part of the step's gradient and loss that is this process's, and its number of examples."""
        examples = self.count(inputs)
        total = torch.zeros((), device=self.args.device)
        counts: list[int] = []
        self._at_once = 0
        for micro_batch in self.cut(inputs, self.group.mine(range(examples)), self.micro_batch):
            counts.append(self.count(micro_batch))
            self._at_once = max(counts)
            with self.compute_loss_context_manager():
                mean: Any = self.compute_loss(model, micro_batch)
                loss = mean * (self.count(micro_batch) / examples)
            check_resident(self.ram_gb)  # the activations of a micro-batch are all there now
            self.accelerator.backward(loss)
            total += loss.detach()
        if counts:
            self._merge_metrics(counts)
        return total, sum(counts)

    def _add_up(self, model: Any, loss: Tensor, examples: int, tokens_before: int) -> Tensor:
        """Make of this process's gradient, metrics and loss those of the whole step."""
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # fewer examples than processes
                parameter.grad = torch.zeros_like(parameter)
        self.group.sum([parameter.grad for parameter in trained])
        metrics = self._metrics["train"]
        own = {name: values.pop() for name, values in metrics.items() if name != "num_tokens"} if examples else {}
        shares = self.group.gather((examples, own, self._total_train_tokens - tokens_before, loss.item()))
        counts, parts, tokens, losses = zip(*[share for share in shares if share[0]], strict=True)
        self._total_train_tokens = tokens_before + sum(tokens)
        metrics["num_tokens"] = [self._total_train_tokens]
        for name in parts[0]:
            metrics[name].append(_mean(counts, [part[name] for part in parts]))
        return loss.new_tensor(sum(losses))

    def _merge_metrics(self, counts: list[int]) -> None:
        """One value for the step in place of one a micro-batch, each weighted by its examples as the loss is."""
        for name, values in self._metrics["train"].items():
            parts = values[-len(counts) :]
            if len(parts) == len(counts) and name != "num_tokens":
                values[-len(counts) :] = [_mean(counts, parts)]

    def _halve(self, reason: str) -> None:
        if self._at_once <= 1 or not self.splits:
            least = (
                f"one {self.example} at a time is"
                if self.splits
                else "this loss needs its whole batch at once, which is"
            )
            raise OutOfMemoryError(
                f"memory ran out in training ({reason}): {least} too much; set memory.gradient_checkpointing=true, "
                f"lower {self.length_key}, or allow more memory"
            )
        self.micro_batch = (self._at_once + 1) // 2  # of what was tried: that may be less than was allowed
        self.note(f"memory ran out ({reason}): the step is taken again with micro-batches of {self.micro_batch}")


def _mean(counts: Sequence[int], values: Sequence[float]) -> float:
    return sum(n * value for n, value in zip(counts, values, strict=True)) / sum(counts)


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _restore_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
