"""Predictions of a classifier on one evaluated split."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from transformers import EvalPrediction

# Columns that identify an example: its group, and its file, or the file and row or line of its text.
IDENTITY = ("group", "clip", "row", "path", "video", "audio")


@dataclass
class Scored:
    """
    Predictions of a classifier on one evaluated split.

    Args:
        rows: Metadata of each example.
        labels: True class of each example, `(n,)`.
        log_probs: Log-probabilities before calibration, `(n, classes)`.
    """

    rows: pd.DataFrame
    labels: np.ndarray
    log_probs: np.ndarray

    @classmethod
    def of(cls, rows: pd.DataFrame, prediction: EvalPrediction) -> "Scored":
        """
        Select the examples that could be read.

        Args:
            rows: Metadata of each example of the split, with its class in `labels`.
            prediction: Logits `(n, classes)` and labels `(n,)`; -100 marks an example that could not be read.

        Raises:
            RuntimeError: rows and predictions are in different orders.
        """
        labels = np.asarray(prediction.label_ids)
        read = labels != -100
        if len(rows) != len(labels) or not np.array_equal(rows["labels"].to_numpy()[read], labels[read]):
            raise RuntimeError("The Trainer evaluated the examples in another order than that of the data.")
        log_probs = log_softmax(np.asarray(prediction.predictions, dtype=np.float64)[read], axis=1)
        return cls(rows[read].reset_index(drop=True), labels[read], log_probs)

    def table(self, names: list[str], temperature: float) -> pd.DataFrame:
        """
        Table of predictions, one row per example.

        Args:
            names: Class names in index order.
            temperature: Softmax temperature; log-probabilities are divided by it.

        Returns:
            The columns of `IDENTITY` that the rows have, then `label`, `predicted` and `confidence`.
        """
        known = [name for name in IDENTITY if name in self.rows and self.rows[name].notna().any()]
        return self.rows[known].assign(
            label=[names[index] for index in self.labels],
            predicted=[names[index] for index in self.predicted],
            confidence=self.confidence(temperature),
        )

    @property
    def predicted(self) -> np.ndarray:
        """Predicted class of each example, `(n,)`."""
        return self.log_probs.argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Whether the predicted class is the true one, `(n,)`."""
        return self.predicted == self.labels

    def confidence(self, temperature: float) -> np.ndarray:
        """Probability of the predicted class at the softmax temperature `temperature`, `(n,)`."""
        return np.exp(log_softmax(self.log_probs / temperature, axis=1).max(axis=1))
