"""Multi-label classification: each label of an example is present or absent."""

import datasets
import evaluate
import numpy as np
from sklearn.metrics import f1_score, roc_auc_score

_DESCRIPTION = """
macro_auroc: area under the ROC curve, averaged over the labels that are present in some references, absent in others.
macro_f1: F1 of the predictions above the threshold, averaged over all labels as scikit-learn's `f1_score` does: a
label that neither occurs nor is predicted counts as 0.
labels_scored: number of labels that macro_auroc averages over.
per_label: auroc (None where it is undefined), f1 and support of each label.
"""


class MultilabelMetrics(evaluate.Metric):
    """`compute(predictions=, references=)`: scores and truth (0 or 1) per label, `(n, labels)`; see `description`."""

    def __init__(self, labels: list[str], threshold: float = 0.5, **kwargs):
        self.labels = list(labels)
        self.threshold = threshold
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: scores per label. references: 1 where the label is present, else 0.",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[list[int]]) -> dict[str, object]:
        scores, truth = np.asarray(predictions), np.asarray(references)
        above = scores > self.threshold
        f1 = np.array([f1_score(*columns, zero_division=0) for columns in zip(truth.T, above.T, strict=True)])
        support = truth.sum(axis=0)
        defined = (support > 0) & (support < len(truth))
        auroc = [
            float(roc_auc_score(truth[:, index], scores[:, index])) if defined[index] else None
            for index in range(len(self.labels))
        ]
        known = [value for value in auroc if value is not None]
        return {
            "macro_auroc": float(np.mean(known)) if known else float("nan"),
            "macro_f1": float(f1.mean()),
            "labels_scored": len(known),
            "per_label": {
                name: {"auroc": auroc[index], "f1": float(f1[index]), "support": int(support[index])}
                for index, name in enumerate(self.labels)
            },
        }


def multilabel_metrics(scores: np.ndarray, references: np.ndarray, labels: list[str]) -> dict[str, object]:
    """
    Metrics of probabilities `(n, labels)` against targets `(n, labels)`.

    Args:
        scores: Probabilities in [0, 1]; a label is predicted above 0.5.
        references: 0 or 1; soft targets count as 1 from 0.5. A row of -100 marks an example that could not be read.
        labels: Names in index order.

    Raises:
        ValueError: no example could be read.
    """
    scored = (references >= 0).all(axis=1)
    if not scored.any():
        raise ValueError("No example could be read, so there is nothing to score; see report/skipped.jsonl.")
    metric = MultilabelMetrics(labels, keep_in_memory=True)
    truth = (references[scored] >= 0.5).astype(int)
    return metric.compute(predictions=scores[scored].astype(float), references=truth)
