"""Recognises a split's recordings one by one with each decoder, as the pipeline does, and scores confidences."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, ProcessorMixin

from hf_fer.metrics.calibration import CalibrationMetrics, aurc, risk_coverage, threshold_for_risk
from hf_fer.metrics.transcription import right_words

from ..alignment_speech_to_text import confidence, timed, words_of
from ..pipeline_speech_to_text import TimedSpeechRecognitionPipeline
from ..recognition_speech_to_text import Search
from ..sound_speech_to_text import MediaLimits, load_audio

RISK = 0.05
"""Largest share of wrong words at the confidence threshold that the report names."""
CONFIDENCE_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass
class Heard:
    """
    The output of one decoder on a split.

    Args:
        texts: Recognised text of each recording.
        words: Confidences of each text's words.
        utterances: Confidence of each text.
        seconds: Total time from reading files to words.
    """

    texts: list[str] = field(default_factory=list)
    words: list[list[float]] = field(default_factory=list)
    utterances: list[float] = field(default_factory=list)
    seconds: float = 0.0


def listen(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    paths: Iterable[str],
    searches: Mapping[str, Search],
    max_seconds: float,
) -> dict[str, Heard]:
    """
    Recognise recordings one after another; each goes through the model once.

    Args:
        model: The model, on its device.
        processor: Its `feature_extractor` and `tokenizer` are used.
        paths: Files that have been checked.
        searches: Name -> decoder.
        max_seconds: Longer files are refused.

    Raises:
        ImportError: a decoder's libraries are not installed.
        UnusableMediaError: a file can no longer be read.
    """
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    pipe = TimedSpeechRecognitionPipeline(
        model=model, feature_extractor=extractor, tokenizer=tokenizer, device=model.device
    )
    decoders = {name: search.decode(model, tokenizer) for name, search in searches.items()}
    found = {name: Heard() for name in searches}
    for path in paths:
        begun = perf_counter()
        log_probs = pipe.frames(load_audio(path, extractor.sampling_rate, MediaLimits(max_seconds)))
        shared = perf_counter() - begun
        for name, decode in decoders.items():
            begun = perf_counter()
            words = words_of(decode(log_probs), tokenizer)
            heard = found[name]
            heard.texts.append(" ".join(word.text for word in words))
            heard.words.append([word["confidence"] for word in timed(words, 1.0)])
            heard.utterances.append(confidence(words))
            heard.seconds += shared + perf_counter() - begun
    return found


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
    def of(cls, transcripts: list[str], heard: Heard) -> "WordConfidence":
        """Compares transcripts with a decoder's output."""
        right = right_words(transcripts, heard.texts)
        return cls(
            np.array([value for words in heard.words for value in words], dtype=float),
            np.array([value for words in right for value in words], dtype=bool),
        )

    def metrics(self) -> dict[str, Any]:
        """
        Returns:
            `ece`, `mean_confidence`, `share_right`, `aurc` and, if there is one, the lowest `threshold` at which at
            most 5% of the kept words are wrong, with its `coverage`. Empty without words.
        """
        if not len(self.confidence):
            return {}
        found = CalibrationMetrics(keep_in_memory=True).compute(
            predictions=self.confidence.clip(0, 1), references=self.right.astype(int)
        )
        found |= {
            "share_right": float(self.right.mean()),
            "aurc": aurc(risk_coverage(self.confidence, self.right)),
        }
        threshold = threshold_for_risk(self.confidence, self.right, RISK)
        if threshold is not None:
            found |= {"threshold": threshold, "coverage": float((self.confidence >= threshold).mean())}
        return found

    def table(self) -> pd.DataFrame:
        """A row per interval of `confidence` that has words, with `words`, `mean_confidence` and `share_right`."""
        rows = pd.DataFrame({"value": self.confidence, "right": self.right, "interval": buckets(self.confidence)})
        grouped = rows.groupby("interval", observed=True).agg(
            words=("value", "size"), mean_confidence=("value", "mean"), share_right=("right", "mean")
        )
        return grouped.rename_axis("confidence").reset_index()


def buckets(values: Iterable[float]) -> pd.Series:
    """The interval of each confidence, such as `0.90 to 0.95`, as an ordered category."""
    names = [f"{low:.2f} to {high:.2f}" for low, high in pairwise(CONFIDENCE_EDGES)]
    return pd.Series(pd.cut(np.clip(list(values), 0, 1), list(CONFIDENCE_EDGES), labels=names, include_lowest=True))
