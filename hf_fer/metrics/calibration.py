"""Whether scores mean what they say, and a score below which an answer is better withheld."""

import datasets
import evaluate
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

_DESCRIPTION = """
ece: expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3): the mean gap between confidence and
accuracy over bins of equal width, weighted by their counts; 0 is perfect.
mean_confidence: mean confidence; above the accuracy means overconfident.
"""


class CalibrationMetrics(evaluate.Metric):
    """`compute(predictions=, references=)`: confidences in [0, 1], and 1 where the answer was right, else 0."""

    def __init__(self, num_bins: int = 15, **kwargs):
        self.num_bins = num_bins
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: confidences in [0, 1]. references: 1 where the answer was right, else 0.",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[int]) -> dict[str, float]:
        confidence, correct = np.asarray(predictions), np.asarray(references)
        bins = np.minimum((confidence * self.num_bins).astype(int), self.num_bins - 1)
        gaps = np.bincount(bins, correct - confidence, minlength=self.num_bins)
        return {"ece": float(np.abs(gaps).sum() / len(confidence)), "mean_confidence": float(confidence.mean())}


def calibration_metrics(log_probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ECE and mean confidence of log-probabilities `(n, classes)` against labels `(n,)`."""
    best = log_probs.argmax(axis=1)
    confidence = np.exp(log_probs[np.arange(len(best)), best]).clip(0, 1)
    metric = CalibrationMetrics(keep_in_memory=True)
    return metric.compute(predictions=confidence, references=(best == labels).astype(int))


def fit_temperature(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """
    The temperature that minimises the negative log-likelihood (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    Args:
        log_probs: `(n, classes)`; dividing them by a temperature is the same as dividing the logits.
        labels: `(n,)`.

    Returns:
        In [0.5, 20]; above 1 where the model was overconfident. A split without errors would have it near 0.
    """
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(log_probs / np.exp(log_temperature), axis=1)[rows, labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.5, 20]), method="bounded").x))


def acceptance_threshold(confidence: np.ndarray, accepted: float) -> float:
    """The score that `accepted` of these confidences, `(n,)`, reach or pass."""
    return float(np.quantile(confidence, 1 - accepted))


def unknown_auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """AUROC of telling texts of known languages from others by the confidences of both, `(n,)` and `(m,)`."""
    truth = np.concatenate([np.ones(len(known)), np.zeros(len(unknown))])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))
