"""Cuts long recordings into chunks that overlap at silences, and joins the chunks' frames.

Neighbouring chunks share some seconds. The shared frames before a seam are taken from the first chunk, those after it
from the second. The seam is where both chunks are most certain of a blank, so that no token is cut, doubled or lost.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

import numpy as np

WINDOW_SECONDS = 0.02
JITTER = 4
"""Frames by which the places of a token in two chunks may differ."""


class Chunk(NamedTuple):
    """
    An interval of a recording, in samples.

    Args:
        start, stop: First sample, and the one after the last.
    """

    start: int
    stop: int


def loudness(samples: np.ndarray, width: int) -> np.ndarray:
    """Mean square of windows of `width` samples, `(windows,)`; the last window may be shorter."""
    if not len(samples):
        return np.zeros(0)
    sums = np.add.reduceat(np.square(samples, dtype=np.float64), np.arange(0, len(samples), width))
    sizes = np.full(len(sums), width)
    sizes[-1] = len(samples) - width * (len(sums) - 1)
    return sums / sizes


def quietest(samples: np.ndarray, rate: int, pause_seconds: float = 0.2) -> int:
    """The middle of the quietest interval of `pause_seconds`, in samples; the last one if several are equal."""
    width = max(int(rate * WINDOW_SECONDS), 1)
    levels = loudness(samples, width)
    span = max(min(round(pause_seconds / WINDOW_SECONDS), len(levels)), 1)
    smooth = np.convolve(levels, np.ones(span) / span, mode="valid")
    last = len(smooth) - 1 - int(np.argmin(smooth[::-1]))
    return min(int((last + span / 2) * width), len(samples))


class Chunker:
    """
    Cuts streamed sound into overlapping chunks; it holds at most one chunk of samples.

    The middle of each overlap is the quietest moment in the second half of the first chunk.

    Args:
        rate: Sampling rate in Hz.
        chunk_seconds: Largest length of a chunk.
        overlap_seconds: Overlap of neighbouring chunks.
        step: Samples per frame of the model; chunks begin at multiples of it, so that their frames are aligned.

    Raises:
        ValueError: the overlap is half a chunk or more, or a length is less than a step.
    """

    def __init__(self, rate: int, *, chunk_seconds: float = 20.0, overlap_seconds: float = 2.0, step: int = 1):
        self.rate, self.step = rate, step
        self.size = int(chunk_seconds * rate) // step * step
        self.overlap = int(overlap_seconds * rate) // step * step
        if not 0 < self.overlap < self.size / 2:
            raise ValueError(
                f"overlap_seconds {overlap_seconds:g} must be at least {step / rate:g} and less than half of "
                f"chunk_seconds {chunk_seconds:g}."
            )
        self.start = 0
        self.held = np.zeros(0, np.float32)

    def push(self, samples: np.ndarray) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Add samples `(samples,)`; yields each chunk that is complete, with its samples."""
        self.held = np.concatenate([self.held, np.asarray(samples, np.float32)])
        while len(self.held) > self.size:
            stop, following = self._cut()
            yield Chunk(self.start, self.start + stop), self.held[:stop]
            self.held, self.start = self.held[following:], self.start + following

    def flush(self) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Yields the last chunk, if samples are left; the next `push` begins a new recording."""
        if len(self.held):
            yield Chunk(self.start, self.start + len(self.held)), self.held
        self.held, self.start = np.zeros(0, np.float32), 0

    def _cut(self) -> tuple[int, int]:
        """Where the first chunk of the held samples ends, and where the next begins."""
        half = self.overlap // 2
        begin = self.size // 2
        middle = begin + quietest(self.held[begin : self.size - half], self.rate)
        following = max((middle - half) // self.step * self.step, self.step)
        return min(following + self.overlap, self.size), following


def plan_chunks(
    samples: np.ndarray, rate: int, *, chunk_seconds: float, overlap_seconds: float, step: int = 1
) -> list[Chunk]:
    """
    The chunks of a whole recording, as `Chunker` cuts it.

    Args:
        samples: Mono, `(samples,)`.
        rate, chunk_seconds, overlap_seconds, step: See `Chunker`.
    """
    chunker = Chunker(rate, chunk_seconds=chunk_seconds, overlap_seconds=overlap_seconds, step=step)
    return [chunk for part in (chunker.push(samples), chunker.flush()) for chunk, _ in part]


def seam(before: np.ndarray, after: np.ndarray, blank: int) -> int:
    """
    Choose the shared frame at which to change from one chunk to the next.

    The seam is a frame in which both chunks have the blank, if there is one. Frames with the same tokens in both
    chunks on either side are preferred, then those far from any token, then those near the middle. Two chunks may
    place a token a frame or two apart, so that a seam beside it would double or lose it.

    Args:
        before, after: Natural log-probabilities `(shared, vocabulary)` of the same frames by both chunks.
        blank: Index of the blank.

    Returns:
        How many of the shared frames are taken from the first chunk.
    """
    shared = min(len(before), len(after))
    if not shared:
        return 0
    first, second = before[:shared].argmax(axis=1), after[:shared].argmax(axis=1)
    spoken = np.flatnonzero((first != blank) | (second != blank))
    silent = np.flatnonzero((first == blank) & (second == blank))
    sure = np.minimum(before[:shared, blank], after[:shared, blank])

    def worth(cut: int) -> tuple[bool, int, float, float]:
        margin = int(np.abs(spoken - cut).min()) if len(spoken) else JITTER
        agree = _tokens(first, cut, blank) == _tokens(second, cut, blank)
        from_middle = abs(cut + 0.5 - shared / 2)
        return (agree, min(margin, JITTER), -from_middle, 0.0) if len(silent) else (agree, 0, sure[cut], -from_middle)

    return int(max(silent if len(silent) else range(shared), key=worth))


def _tokens(best: np.ndarray, cut: int, blank: int) -> tuple[list[int], list[int]]:
    """The tokens just before and just after a frame."""
    sides = best[max(cut - JITTER, 0) : cut], best[cut : cut + JITTER]
    return tuple([token for token, _ in groupby(side.tolist()) if token != blank] for side in sides)


class Joiner:
    """
    Joins the frames of chunks to those of the recording; it holds at most one overlap.

    Args:
        blank: Index of the blank.
    """

    def __init__(self, blank: int):
        self.blank = blank
        self.first = 0
        self.held: np.ndarray | None = None

    def push(self, log_probs: np.ndarray, first_frame: int, following: int | None) -> np.ndarray:
        """
        Add a chunk.

        Args:
            log_probs: Natural log-probabilities `(frames, vocabulary)`.
            first_frame: Index of its first frame in the recording.
            following: Index of the next chunk's first frame; `None` for the last.

        Returns:
            Frames of the recording that no later chunk changes, from the end of those returned before.

        Raises:
            ValueError: the chunk begins after the last one ended, so that frames are missing.
        """
        if self.held is not None:
            end = self.first + len(self.held)
            if not self.first <= first_frame <= end:
                raise ValueError(f"a chunk begins at frame {first_frame}, and the last one ended at frame {end}.")
            lead = self.held[: first_frame - self.first]
            shared = self.held[first_frame - self.first :]
            cut = seam(shared, log_probs, self.blank)
            log_probs = np.concatenate([lead, shared[:cut], log_probs[cut:]])
        start = first_frame if self.held is None else self.first
        keep = len(log_probs) if following is None else min(max(following - start, 0), len(log_probs))
        self.held = None if following is None else log_probs[keep:]
        self.first = start + keep
        return log_probs[:keep]


def join_log_probs(chunks: Iterable[tuple[int, np.ndarray]], blank: int) -> np.ndarray:
    """
    Join the frames of all chunks of a recording.

    Args:
        chunks: For each chunk, in order, the index of its first frame and its log-probabilities.
        blank: Index of the blank.

    Returns:
        Log-probabilities `(frames, vocabulary)`.

    Raises:
        ValueError: there is no chunk, or frames between two chunks are missing.
    """
    chunks = list(chunks)
    if not chunks:
        raise ValueError("there is no chunk to join.")
    joiner, following = Joiner(blank), [first for first, _ in chunks[1:]] + [None]
    parts = [joiner.push(frames, first, then) for (first, frames), then in zip(chunks, following, strict=True)]
    return np.concatenate(parts)


class WordBoundary:
    """
    Holds frames back until a word has ended, so that the frames it returns can be decoded on their own.

    Args:
        blank: Index of the blank.
        starts_word: For each token of the vocabulary, whether a word begins with it, such as a space or "▁a".
        longest: Largest number of held frames; beyond it, frames up to the last blank are returned.
    """

    def __init__(self, blank: int, starts_word: Iterable[bool], longest: int = 500):
        self.blank, self.longest = blank, longest
        self.starts_word = np.asarray(list(starts_word), bool)
        self.held = np.zeros((0, len(self.starts_word)), np.float32)

    def push(self, log_probs: np.ndarray) -> np.ndarray:
        """Add frames; returns the held and new ones before the last word that has begun."""
        frames = np.concatenate([self.held, log_probs])
        best = frames.argmax(axis=1)
        begun = np.flatnonzero(self.starts_word[best])
        cut = self._run_start(best, begun[-1]) if len(begun) else 0
        if len(frames) - cut > self.longest:
            blanks = np.flatnonzero(best == self.blank)
            cut = int(blanks[-1]) if len(blanks) else len(frames)
        self.held = frames[cut:]
        return frames[:cut]

    def flush(self) -> np.ndarray:
        """Returns the held frames."""
        frames, self.held = self.held, self.held[:0]
        return frames

    @staticmethod
    def _run_start(best: np.ndarray, index: int) -> int:
        while index and best[index - 1] == best[index]:
            index -= 1
        return int(index)


__all__ = ["Chunk", "Chunker", "Joiner", "WordBoundary", "join_log_probs", "plan_chunks", "quietest", "seam"]
