"""Trains on batches that a data set composes itself, such as batches of so many seconds instead of so many rows."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import seed_worker

from hf_fer.recipe.arguments import TrainingArguments


class Batches(Protocol):
    """Batch sampler of a training split, as its attribute `batches`; the order follows seed and epoch alone."""

    def __len__(self) -> int:
        """Number of batches, the same in every epoch."""

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the current epoch, as lists of row numbers."""

    def __str__(self) -> str:
        """Size of a batch in words."""

    def largest(self) -> list[int]:
        """The rows of a batch that needs as much memory as any."""


def batches_of(split: Dataset | None) -> Batches | None:
    """The batches that a training split composes itself; `None` if the Trainer composes them."""
    return getattr(split, "batches", None)


def batch_size(args: TrainingArguments, split: Dataset | None) -> str:
    """Size of a batch, gradient accumulation steps, and number of processes, such as `8 x 2 x 1`."""
    size = batches_of(split) or args.per_device_train_batch_size
    return f"{size} x {args.gradient_accumulation_steps} x {args.world_size}"


def use_own_batches(trainer: Trainer) -> None:
    """
    Let a Trainer take the batches of its training split, if the split composes them.

    Each process takes every n-th batch; the first batches are repeated where the last round lacks some. A resumed
    epoch skips the batches that were trained on, as with the Trainer's own.
    """
    batches = batches_of(trainer.train_dataset)
    if batches is not None:
        trainer.get_train_dataloader = partial(_loader, trainer, batches)


def _loader(trainer: Trainer, batches: Batches) -> DataLoader[Any]:
    args = trainer.args
    loader = DataLoader(
        trainer.train_dataset,
        batch_sampler=batches,
        collate_fn=trainer.data_collator,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    )
    return trainer.accelerator.prepare(loader)
