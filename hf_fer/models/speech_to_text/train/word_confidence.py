"""Confidences of words: how well they agree with errors, their temperature, and the abstention threshold."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedConfig

from hf_fer.metrics.calibration import (
    TEMPERATURE_BOUNDS,
    CalibrationMetrics,
    aurc,
    best_temperature,
    risk_coverage,
    threshold_for_risk,
)
from hf_fer.metrics.transcription import right_words

from ..alignment_speech_to_text import Word, token_frames, token_scores

CONFIDENCE_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
LEAST = 1e-6
"""A wrong word of confidence 1 counts as one of confidence 1 - LEAST, whose likelihood is not 0."""


@dataclass
class Evidence:
    """
    What the confidences of recognised words come from: the frame of each of their tokens.

    Args:
        frames: Natural logarithms `(tokens, vocabulary)` of each recording, in the frames of the words' tokens.
        ids: Index of each token in the vocabulary, `(tokens,)`, of each recording.
        lengths: Number of tokens of each word, of each recording.
    """

    frames: list[np.ndarray] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)

    def add(self, words: Sequence[Word], log_probs: np.ndarray) -> None:
        """Add a recording's words, which were decoded from log-probabilities `(frames, vocabulary)`."""
        tokens = [token for word in words for token in word.tokens]
        self.frames.append(token_frames(tokens, log_probs) if tokens else log_probs[:0])
        self.ids.append(np.array([token.id for token in tokens], dtype=int))
        self.lengths.append([len(word.tokens) for word in words])

    def scores(self, temperature: float) -> list[np.ndarray]:
        """Natural logarithms of the words' confidences at a temperature, `(words,)` of each recording."""
        found = []
        for frames, ids, lengths in zip(self.frames, self.ids, self.lengths, strict=True):
            tokens = np.split(token_scores(frames, ids, temperature), np.cumsum(lengths)[:-1]) if lengths else []
            found.append(np.array([part.mean() for part in tokens]))
        return found

    def utterances(self, temperature: float) -> list[float]:
        """Confidence of each recording, the geometric mean over its words; 0 without words."""
        return [float(np.exp(words.mean())) if len(words) else 0.0 for words in self.scores(temperature)]


@dataclass(frozen=True)
class WordCalibration:
    """
    Temperature of word confidences, and the confidence below which the pipeline marks a word.

    Args:
        temperature: Logits of the frames are divided by it.
        threshold: Confidence in [0, 1]; 0 marks no word.
        remark: Sentences for the report that say where both come from.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    remark: str = ""

    @classmethod
    def fit(cls, evidence: Evidence, right: np.ndarray, risk: float) -> "WordCalibration":
        """
        Fit the temperature by maximum likelihood (Guo et al. 2017), then choose the threshold.

        Args:
            evidence: Of the words of validation.
            right: Whether each of these words is right, `(words,)`.
            risk: Largest share of wrong words among those that reach the threshold.
        """

        def loss(temperature: float) -> float:
            sure = np.exp(np.concatenate(evidence.scores(temperature))).clip(LEAST, 1 - LEAST)
            return -np.log(np.where(right, sure, 1 - sure)).mean()

        temperature, remark = None, "there are no words"
        if len(right):
            temperature = best_temperature(loss)
            low, high = TEMPERATURE_BOUNDS
            remark = f"all {len(right)} are right" if right.all() else f"none between {low:g} and {high:g} is the best"
        if temperature is None:
            said = f"No temperature was fitted to the words of validation, because {remark}."
        else:
            said = (
                f"The temperature of word confidences ({temperature:.3f}) was fitted on the words of validation, so "
                "that their ECE there is optimistic."
            )
        temperature = temperature or 1.0
        sure = np.exp(np.concatenate(evidence.scores(temperature))) if len(right) else np.zeros(0)
        threshold = threshold_for_risk(sure, right, risk) if len(sure) else None
        if threshold is None:
            return cls(temperature, 0.0, f"{said} No abstention threshold: at each, more are wrong.")
        if threshold <= sure.min():
            return cls(temperature, 0.0, f"{said} No abstention threshold: at most {risk:g} of all words are wrong.")
        return cls(
            temperature,
            threshold,
            f"{said} At most {risk:g} of the words of validation above the abstention threshold ({threshold:.3f}) are "
            "wrong.",
        )

    @classmethod
    def stored(cls, config: PreTrainedConfig) -> "WordCalibration":
        """The calibration in a model's configuration."""
        found = (getattr(config, "word_temperature", 1.0), getattr(config, "abstention_threshold", 0.0))
        if found == (1.0, 0.0):
            return cls(remark="Word confidences are not calibrated: the model has no temperature and no threshold.")
        return cls(*found, "Temperature and abstention threshold of words are those stored with the checkpoint.")

    def put(self, config: PreTrainedConfig) -> None:
        """Store temperature and threshold in a model's configuration."""
        config.word_temperature, config.abstention_threshold = self.temperature, self.threshold


@dataclass
class WordConfidence:
    """
    Confidences of words, compared with their errors.

    Args:
        confidence: Confidence of each recognised word, `(words,)`.
        right: Whether the recognised word is right, `(words,)`.
    """

    confidence: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, transcripts: list[str], texts: list[str], evidence: Evidence, temperature: float) -> "WordConfidence":
        """
        Compare transcripts with a decoder's texts.

        Args:
            transcripts, texts: True and recognised text of each recording.
            evidence: Of the recognised words.
            temperature: Temperature of the confidences.
        """
        scores = evidence.scores(temperature)
        return cls(np.exp(np.concatenate(scores)) if scores else np.zeros(0), right_marks(transcripts, texts))

    def metrics(self, threshold: float = 0.0) -> dict[str, float]:
        """
        Figures of the confidences.

        Args:
            threshold: The abstention threshold; 0 if there is none.

        Returns:
            `ece`, `mean_confidence`, `share_right`, `aurc` and, if there is a threshold, `threshold`, `coverage`, the
            share of words that reach it, and `share_right_of_kept`. Empty without words.
        """
        if not len(self.confidence):
            return {}
        found = self.ece() | {
            "share_right": float(self.right.mean()),
            "aurc": aurc(risk_coverage(self.confidence, self.right)),
        }
        if threshold:
            kept = self.confidence >= threshold
            found |= {"threshold": threshold, "coverage": float(kept.mean())}
            if kept.any():
                found["share_right_of_kept"] = float(self.right[kept].mean())
        return found

    def ece(self) -> dict[str, float]:
        """`ece` and `mean_confidence`; empty without words."""
        if not len(self.confidence):
            return {}
        return CalibrationMetrics(keep_in_memory=True).compute(
            predictions=self.confidence.clip(0, 1), references=self.right.astype(int)
        )

    def table(self) -> pd.DataFrame:
        """A row per interval of `confidence` that has words, with `words`, `mean_confidence` and `share_right`."""
        rows = pd.DataFrame({"value": self.confidence, "right": self.right, "interval": buckets(self.confidence)})
        grouped = rows.groupby("interval", observed=True).agg(
            words=("value", "size"), mean_confidence=("value", "mean"), share_right=("right", "mean")
        )
        return grouped.rename_axis("confidence").reset_index()


def right_marks(transcripts: list[str], texts: list[str]) -> np.ndarray:
    """Whether each recognised word of a split is right, `(words,)`."""
    return np.array([value for words in right_words(transcripts, texts) for value in words], dtype=bool)


def word_figures(before: WordConfidence, after: WordConfidence, calibration: WordCalibration) -> dict[str, Any]:
    """`WordConfidence.metrics` at the temperature and, if it is not 1, ECE and mean confidence before it."""
    found = after.metrics(calibration.threshold)
    if calibration.temperature != 1:
        found |= {f"{name}_before": value for name, value in before.ece().items()}
        found["temperature"] = calibration.temperature
    return found


def buckets(values: Iterable[float]) -> pd.Series:
    """The interval of each confidence, such as `0.90 to 0.95`, as an ordered category."""
    names = [f"{low:.2f} to {high:.2f}" for low, high in pairwise(CONFIDENCE_EDGES)]
    return pd.Series(pd.cut(np.clip(list(values), 0, 1), list(CONFIDENCE_EDGES), labels=names, include_lowest=True))
