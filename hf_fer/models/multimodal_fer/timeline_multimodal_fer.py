"""Turns scores of overlapping windows into a curve over time, smooths it, and merges it to segments."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .windows_multimodal_fer import Window

ABSTAIN = "abstain"
TIMELINE_SECONDS, TIMELINE_STRIDES, SWITCH_PENALTY = 2.0, 4, 1.0
"""Defaults of a timeline: seconds per window, windows that cover each moment, and cost of a change of class (nats)."""


@dataclass(frozen=True)
class Curve:
    """
    Probabilities over time, constant within a cell between two neighbouring starts or ends of windows.

    Args:
        starts, ends: Seconds, `(cells,)`; cells are in order and do not overlap; those without a window are absent.
        log_probs: Log-probabilities, `(cells, classes)`.
    """

    starts: np.ndarray
    ends: np.ndarray
    log_probs: np.ndarray


def curve_of(windows: Sequence[Window], log_probs: np.ndarray) -> Curve:
    """
    For each moment, the normalised mean of the log-probabilities of all windows that cover it.

    Args:
        windows: Windows in seconds; they may overlap and leave gaps.
        log_probs: `(windows, classes)`.
    """
    edges = np.unique(np.round([moment for window in windows for moment in window], 6))
    first, last = (np.searchsorted(edges, np.round(column, 6)) for column in zip(*windows, strict=True))
    cells = len(edges) - 1
    sums, counts = np.zeros((cells + 1, log_probs.shape[1])), np.zeros(cells + 1, dtype=int)
    np.add.at(sums, first, log_probs)
    np.add.at(sums, last, -log_probs)
    np.add.at(counts, first, 1)
    np.add.at(counts, last, -1)
    counts = counts.cumsum()[:-1]
    covered = counts > 0
    means = sums.cumsum(axis=0)[:-1][covered] / counts[covered, None]
    means -= np.logaddexp.reduce(means, axis=1, keepdims=True)
    return Curve(edges[:-1][covered], edges[1:][covered], means)


def smoothed_path(curve: Curve, window_seconds: float, switch_penalty: float) -> np.ndarray:
    """
    The path of classes with the highest sum of log-probabilities, minus `switch_penalty` for each change (Viterbi).

    Each cell is weighted by its share of a window, because the cells of a window are not independent evidence.

    Returns:
        The class of each cell, `(cells,)`.
    """
    weights = (curve.ends - curve.starts)[:, None] / window_seconds
    evidence = curve.log_probs * weights
    score = evidence[0]
    came_from = np.zeros(evidence.shape, dtype=int)
    for cell in range(1, len(evidence)):
        best = score.argmax()
        switches = score[best] - switch_penalty > score
        came_from[cell] = np.where(switches, best, np.arange(len(score)))
        score = np.where(switches, score[best] - switch_penalty, score) + evidence[cell]
    path = np.empty(len(evidence), dtype=int)
    path[-1] = score.argmax()
    for cell in range(len(evidence) - 1, 0, -1):
        path[cell - 1] = came_from[cell, path[cell]]
    return path


def segments_of(curve: Curve, path: np.ndarray) -> list[dict[str, float | int]]:
    """
    Merge neighbouring cells of one class to `{"start", "end", "class", "score"}`; a gap ends a segment.

    The score is the mean probability of the class over the segment's time.
    """
    breaks = (np.diff(path) != 0) | (curve.starts[1:] > curve.ends[:-1])
    bounds = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(path)]
    found = []
    for first, end in itertools.pairwise(bounds):
        choice, cells = int(path[first]), slice(first, end)
        weights = curve.ends[cells] - curve.starts[cells]
        score = np.average(np.exp(curve.log_probs[cells, choice]), weights=weights)
        found.append(
            {
                "start": float(curve.starts[first]),
                "end": float(curve.ends[end - 1]),
                "class": choice,
                "score": float(score),
            }
        )
    return found


def timeline_of(
    windows: Sequence[Window],
    log_probs: np.ndarray,
    names: Mapping[int, str],
    *,
    window_seconds: float,
    switch_penalty: float = SWITCH_PENALTY,
    threshold: float = 0.0,
) -> dict[str, list[dict[str, Any]]]:
    """
    Scores of windows as segments and curve, in the form of the pipeline's answer.

    Args:
        windows: Windows in seconds.
        log_probs: Calibrated log-probabilities, `(windows, classes)`.
        names: Class index -> name.
        window_seconds: Length of a window.
        switch_penalty: Cost of a change of class, in nats.
        threshold: Score below which a segment abstains.
    """
    curve = curve_of(windows, log_probs)
    segments = []
    for segment in segments_of(curve, smoothed_path(curve, window_seconds, switch_penalty)):
        score, label = segment["score"], names[segment.pop("class")]
        unsure = {"label": ABSTAIN, "score": 1 - score} if score < threshold else {"label": label}
        segments.append({**segment, "label": label, **unsure})
    cells = zip(curve.starts.tolist(), curve.ends.tolist(), np.exp(curve.log_probs).tolist(), strict=True)
    return {
        "segments": segments,
        "curve": [
            {"start": start, "end": end, "scores": {names[index]: score for index, score in enumerate(scores)}}
            for start, end, scores in cells
        ],
    }


__all__ = ["ABSTAIN", "Curve", "curve_of", "segments_of", "smoothed_path", "timeline_of"]
