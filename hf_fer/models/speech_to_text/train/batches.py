"""Batches of recordings by seconds of sound."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from hf_fer.data.augment import EpochClock

BATCHES_PER_BUCKET = 8


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
