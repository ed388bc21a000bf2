"""Single-label classification."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

NAMES = ("accuracy", "uar", "macro_f1", "weighted_f1")

_DESCRIPTION = """
accuracy: share of correct predictions (weighted average recall, WAR).
uar: unweighted average recall, the mean of the recalls of the classes that occur in the references; scikit-learn's
`balanced_accuracy_score`.
macro_f1: mean F1 of the classes that occur in references or predictions, as scikit-learn's `f1_score` averages.
weighted_f1: F1 averaged over the classes by support.
per_class: precision, recall, F1 and support of each class.
confusion_matrix: counts, rows are references, columns predictions.
"""


class ClassificationMetrics(evaluate.Metric):
    """`compute(predictions=, references=)` of class indices; see its `description`."""

    def __init__(self, labels: list[str], **kwargs):
        self.labels = list(labels)
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions and references: class indices, one per example.",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, object]:
        indices = np.arange(len(self.labels))
        precision, recall, f1, support = precision_recall_fscore_support(
            references, predictions, labels=indices, zero_division=0
        )
        seen = support > 0
        named = np.union1d(references, predictions).astype(int)
        per_class = {
            name: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "support": int(support[index]),
            }
            for index, name in enumerate(self.labels)
        }
        return {
            "accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references))),
            "uar": float(recall[seen].mean()),
            "macro_f1": float(f1[named].mean()),
            "weighted_f1": float(np.average(f1, weights=support)),
            "per_class": per_class,
            "confusion_matrix": confusion_matrix(references, predictions, labels=indices).tolist(),
        }


def classification_metrics(predictions: np.ndarray, references: np.ndarray, labels: list[str]) -> dict[str, object]:
    """
    Metrics of class indices, `(n,)` each.

    Args:
        predictions: Predicted classes.
        references: True classes; -100 marks an example that could not be read, which is not scored.
        labels: Class names in index order.

    Raises:
        ValueError: no example could be read.
    """
    scored = references != -100
    if not scored.any():
        raise ValueError("No example could be read, so there is nothing to score; see report/skipped.jsonl.")
    metric = ClassificationMetrics(labels, keep_in_memory=True)
    return metric.compute(predictions=predictions[scored], references=references[scored])


def breakdown(
    predictions: np.ndarray, references: np.ndarray, values: Sequence[object], labels: list[str]
) -> dict[str, dict[str, float]]:
    """
    Score the examples of each value of a metadata column.

    Args:
        predictions, references: Class indices `(n,)`.
        values: Values of the column, `(n,)`; `None` where an example has none.
        labels: Class names in index order.

    Returns:
        Value -> `n`, `classes` (number of classes that occur, over which the UAR averages), `accuracy` and `uar`.
    """
    names = np.array(["not given" if pd.isna(value) else str(value) for value in values], dtype=object)
    scores = {}
    for name in sorted(set(names)):
        chosen = names == name
        metrics = classification_metrics(predictions[chosen], references[chosen], labels)
        scores[name] = {
            "n": int(chosen.sum()),
            "classes": len(set(references[chosen])),
            "accuracy": metrics["accuracy"],
            "uar": metrics["uar"],
        }
    return scores
