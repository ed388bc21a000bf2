"""Cuts long texts into overlapping windows of tokens, and combines windows' scores for whole texts and for spans."""

import itertools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Full stops, question and exclamation marks, full-width ones too, and danda, each with closing quotes after it.
SENTENCE_END = re.compile("[.!?\u2026\u3002\uff01\uff1f\u0964\u0965]+[\"'\u201d\u2019\u00bb)\u300d\u300f]*\\s*|\n+")
SENTENCE_REACH, WORD_REACH = 24, 16  # characters
RIVALS = 5
LEAST_SPREAD = 0.3  # nats, added to each standard deviation


@dataclass(frozen=True)
class Window:
    """
    A window of a text, as input of the model.

    Args:
        text: Index of the text that it is cut from.
        input_ids: Tokens, including special ones.
        start, end: Position in the text, in characters.
    """

    text: int
    input_ids: list[int]
    start: int
    end: int


def cut_windows(
    tokenizer: Any, texts: list[str], *, max_length: int, overlap: int, max_windows: int | None = None
) -> list[Window]:
    """
    Cut texts into windows; a text that fits is one window.

    Args:
        tokenizer: A fast tokenizer.
        texts: Texts to cut.
        max_length: Tokens per window, including special ones.
        overlap: Tokens that a window shares with the next.
        max_windows: Largest number of windows per text; a longer text gives this many, evenly spread.

    Returns:
        Windows in the order of the texts, at least one for each.
    """
    encoded = tokenizer(
        texts,
        truncation=True,
        max_length=max_length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    by_text: dict[int, list[Window]] = {}
    for text, input_ids, offsets in zip(
        encoded["overflow_to_sample_mapping"], encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        places = [(start, end) for start, end in offsets if end > start] or [(0, 0)]
        by_text.setdefault(text, []).append(Window(text, input_ids, places[0][0], max(end for _, end in places)))
    return [window for windows in by_text.values() for window in _spread(windows, max_windows)]


def _spread(windows: list[Window], most: int | None) -> list[Window]:
    if most is None or len(windows) <= most:
        return windows
    return [windows[index] for index in np.linspace(0, len(windows) - 1, most).round().astype(int)]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities over the last axis."""
    return torch.from_numpy(np.asarray(logits, dtype=np.float64)).log_softmax(dim=-1).numpy()


def pool_windows(logits: np.ndarray, texts: np.ndarray, lengths: np.ndarray, num_texts: int) -> np.ndarray:
    """
    Log-probabilities of whole texts: the mean over their windows, weighted by length and normalised again.

    Args:
        logits: Logits of the windows, `(windows, classes)`.
        texts: Index of each window's text, `(windows,)`.
        lengths: Tokens of each window, `(windows,)`.
        num_texts: Number of texts; each must have a window.

    Returns:
        Log-probabilities of the texts, `(num_texts, classes)`.
    """
    weights = np.asarray(lengths, dtype=np.float64)
    total = np.bincount(texts, weights, minlength=num_texts)
    pooled = np.zeros((num_texts, logits.shape[1]))
    np.add.at(pooled, texts, log_softmax(logits) * weights[:, None])
    return log_softmax(pooled / total[:, None])


def margins(log_probs: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """
    The log-probability of the chosen class minus the mean of its rivals, the five highest other classes.

    A text in an unknown language often has one likely class too, but its rivals are closer than those of other texts.

    Args:
        log_probs: Uncalibrated log-probabilities, `(n, classes)`.
        chosen: Class of each row, `(n,)`.

    Returns:
        Margins in nats, `(n,)`; below 0 only if the chosen class is not the most likely one.
    """
    rows = np.arange(len(log_probs))
    others = log_probs.copy()
    others[rows, chosen] = -np.inf
    rivals = np.sort(others, axis=1)[:, 1:][:, -RIVALS:]
    return log_probs[rows, chosen] - rivals.mean(axis=1)


def familiarity(log_probs: np.ndarray, chosen: np.ndarray, typical: dict[str, list[float]] | None) -> np.ndarray:
    """
    The margin of each text, in standard deviations above the mean margin of its class.

    Languages with a close relative have small margins and others large ones, so a text in an unknown language stands
    out best among texts of the language that it is mistaken for.

    Args:
        log_probs: Uncalibrated log-probabilities, `(n, classes)`.
        chosen: Class of each row, `(n,)`.
        typical: `mean` and `std` of each class's margins on validation; with `None`, margins are returned unscaled.

    Returns:
        Standardised margins, `(n,)`.
    """
    found = margins(log_probs, chosen)
    if typical is None:
        return found
    return (found - np.array(typical["mean"])[chosen]) / (np.array(typical["std"])[chosen] + LEAST_SPREAD)


def typical_margins(log_probs: np.ndarray) -> dict[str, list[float]]:
    """`mean` and `std` of margins per predicted class; a class with fewer than 5 texts gets those of all texts."""
    chosen = log_probs.argmax(axis=1)
    found = margins(log_probs, chosen)
    groups = [found[chosen == index] for index in range(log_probs.shape[1])]
    groups = [group if len(group) >= 5 else found for group in groups]
    return {"mean": [float(group.mean()) for group in groups], "std": [float(group.std()) for group in groups]}


def best_path(scores: np.ndarray, switch_penalty: float) -> np.ndarray:
    """
    The path of classes with the highest sum of scores, minus `switch_penalty` for every change (Viterbi).

    Args:
        scores: Log-probabilities `(steps, classes)`.
        switch_penalty: Penalty for each change of class, in nats.

    Returns:
        Class indices `(steps,)`.
    """
    best, back = scores[0].copy(), np.zeros(scores.shape, dtype=int)
    for step in range(1, len(scores)):
        switched = best.argmax()
        stays = best >= best[switched] - switch_penalty
        back[step] = np.where(stays, np.arange(scores.shape[1]), switched)
        best = scores[step] + np.where(stays, best, best[switched] - switch_penalty)
    path = [int(best.argmax())]
    for step in range(len(scores) - 1, 0, -1):
        path.append(int(back[step][path[-1]]))
    return np.array(path[::-1])


def natural_break(text: str, place: int, low: int, high: int) -> int:
    """
    The sentence end, or else the space, that is nearest to `place` and within reach; `place` if there is none.

    The result lies strictly between `low` and `high`, which must be at least 2 apart.
    """
    place = min(max(place, low + 1), high - 1)
    for pattern, reach in ((SENTENCE_END, SENTENCE_REACH), (re.compile(r"\s+"), WORD_REACH)):
        first, last = max(low + 1, place - reach), min(high - 1, place + reach)
        ends = [match.end() for match in pattern.finditer(text, max(first - 1, 0), max(last, 0))]
        inside = [end for end in ends if first <= end <= last]
        if inside:
            return min(inside, key=lambda end: abs(end - place))
    return place


def merge_spans(
    text: str, windows: list[Window], log_probs: np.ndarray, switch_penalty: float
) -> list[dict[str, Any]]:
    """
    Merge runs of windows of one class into adjacent spans of characters.

    Two spans meet in the middle of the overlap of their windows, or at the end of a sentence or a space near it.

    Args:
        text: The text that the windows are cut from.
        windows: Windows of this text, in order.
        log_probs: Log-probabilities of the windows, `(windows, classes)`.
        switch_penalty: See `best_path`.

    Returns:
        `{"start", "end", "class", "score"}` per span; the score is the mean probability of the class over the run.
    """
    path = best_path(log_probs, switch_penalty)
    starts = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    spans: list[dict[str, Any]] = []
    for first, end in itertools.pairwise(starts):
        choice = int(path[first])
        start = windows[first].start
        if spans:
            before = spans[-1]
            if windows[end - 1].end - before["start"] < 2:  # no character is left for a span of its own
                continue
            start = natural_break(text, (start + before["end"]) // 2, before["start"], windows[end - 1].end)
            before["end"] = start
        score = float(np.exp(log_probs[first:end, choice]).mean())
        spans.append({"start": start, "end": windows[end - 1].end, "class": choice, "score": score})
    return spans
