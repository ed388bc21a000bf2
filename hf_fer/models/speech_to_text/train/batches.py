"""Batches of recordings by seconds of sound."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from hf_fer.data.augment import EpochClock

BATCHES_PER_BUCKET = 8
ALIKE = 2 / 3
"""Share of the different transcripts of batches in random order, below which those by length are too alike."""


class SecondsBatches(Sampler[list[int]]):
    """
    Batches of recordings of similar length, whose number times the longest one's seconds is within a limit.

    Sorted by length, the recordings are cut into buckets. The batches of a bucket have as many recordings as the
    longest one of the bucket allows, and are drawn again in each epoch. So their number is the same in every epoch.

    Args:
        seconds: Length of each recording, before augmentation.
        limit: Largest number of seconds of a batch, padding included; no recording is longer.
        seed: Together with the epoch, it determines the batches and their order.
        clock: Current epoch.
    """

    def __init__(self, seconds: Sequence[float], limit: float, seed: int, clock: EpochClock):
        self.limit, self.seed, self.clock = limit, seed, clock
        order, lengths = np.argsort(seconds, kind="stable")[::-1], np.asarray(seconds)
        self.buckets: list[tuple[np.ndarray, int]] = []
        while len(order):
            size = max(int(limit / lengths[order[0]] + 1e-9), 1)
            self.buckets.append((order[: size * BATCHES_PER_BUCKET], size))
            order = order[size * BATCHES_PER_BUCKET :]

    def __len__(self) -> int:
        return sum(-(-len(rows) // size) for rows, size in self.buckets)

    def __iter__(self) -> Iterator[list[int]]:
        draw, batches = np.random.default_rng([self.seed, self.clock.epoch]), []
        for rows, size in self.buckets:
            mixed = draw.permutation(rows).tolist()
            batches += [mixed[start : start + size] for start in range(0, len(mixed), size)]
        draw.shuffle(batches)
        return iter(batches)

    def __str__(self) -> str:
        return f"{self.limit:g} s"

    def largest(self) -> list[int]:
        """The longest recordings, as many as a batch of them has."""
        rows, size = self.buckets[0]
        return rows[:size].tolist()


def batches_by_length(lengths: Sequence[int], size: int, seed: int) -> list[list[int]]:
    """Batches as `train_sampling_strategy: group_by_length` makes them, of one epoch."""
    order = get_length_grouped_indices(list(lengths), size, generator=torch.Generator().manual_seed(seed))
    return [order[start : start + size] for start in range(0, len(order), size)]


def alike(batches: Sequence[Sequence[int]], transcripts: Sequence[str], seed: int) -> tuple[float, float] | None:
    """
    Mean number of different transcripts in a batch, and in random batches of the same sizes.

    Where recordings of a length say the same, as a few phrases do, a batch by length is of one phrase. BatchNorm then
    normalises every phrase by itself in training and all alike in evaluation, and steps contradict each other.

    Args:
        batches: Indices of the recordings of each batch.
        transcripts: Transcript of each recording.
        seed: Seed of the random batches.

    Returns:
        The two numbers, or `None` if batches are not much more alike than random ones.
    """
    shuffled = iter(np.random.default_rng(seed).permutation(sum(map(len, batches))).tolist())
    random = [[next(shuffled) for _ in batch] for batch in batches]
    found, expected = (
        float(np.mean([len({transcripts[index] for index in batch}) for batch in kind])) for kind in (batches, random)
    )
    return (found, expected) if found < ALIKE * expected else None
