"""Calibration of confidences, and selective prediction: abstaining below a confidence threshold."""

import math
from collections.abc import Callable

import datasets
import evaluate
import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score

TEMPERATURE_BOUNDS = (0.01, 100.0)

_DESCRIPTION = """
ece: expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3): the mean gap between confidence and
accuracy over bins of equal width, ((m - 1) / M, m / M], weighted by their counts; 0 is perfect.
mean_confidence: mean confidence; a model whose mean confidence exceeds its accuracy is overconfident.
"""


class CalibrationMetrics(evaluate.Metric):
    """`compute(predictions=, references=)`: confidences in [0, 1]; 1 for each correct answer, 0 for a wrong one."""

    def __init__(self, num_bins: int = 15, **kwargs):
        self.num_bins = num_bins
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description="predictions: confidences in [0, 1]. references: 1 if the answer is correct, else 0.",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[float], references: list[int]) -> dict[str, float]:
        confidence, correct = np.asarray(predictions), np.asarray(references)
        edges = np.arange(1, self.num_bins) / self.num_bins
        bins = np.searchsorted(edges, confidence, side="left")
        gaps = np.bincount(bins, correct - confidence, minlength=self.num_bins)
        return {"ece": float(np.abs(gaps).sum() / len(confidence)), "mean_confidence": float(confidence.mean())}


def calibration_metrics(log_probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ECE and mean confidence of log-probabilities `(n, classes)` against labels `(n,)`."""
    best = log_probs.argmax(axis=1)
    confidence = np.exp(log_probs[np.arange(len(best)), best]).clip(0, 1)
    metric = CalibrationMetrics(keep_in_memory=True)
    return metric.compute(predictions=confidence, references=(best == labels).astype(int))


def fit_temperature(log_probs: np.ndarray, labels: np.ndarray) -> float | None:
    """
    Fit the temperature that minimises the negative log-likelihood (Guo et al. 2017, arXiv 1706.04599, section 4.2).

    The likelihood has no optimum where every answer is correct (it grows as the temperature approaches 0), or where
    the true classes score no better than the others on average (it grows as the temperature does).

    Args:
        log_probs: `(n, classes)`; dividing them by a temperature is the same as dividing the logits.
        labels: `(n,)`.

    Returns:
        The temperature, above 1 for an overconfident model; `None` where `TEMPERATURE_BOUNDS` hold no optimum.
    """
    rows = np.arange(len(labels))
    return best_temperature(lambda temperature: -log_softmax(log_probs / temperature, axis=1)[rows, labels].mean())


def best_temperature(negative_log_likelihood: Callable[[float], float]) -> float | None:
    """The temperature that minimises a function; `None` where `TEMPERATURE_BOUNDS` hold no optimum."""

    def loss(log_temperature: float) -> float:
        return float(negative_log_likelihood(float(np.exp(log_temperature))))

    low, high = np.log(TEMPERATURE_BOUNDS)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x
    # The search stops within its tolerance of a bound, or earlier where the loss is flat.
    at_bound = min(found - low, high - found) < 0.01 or min(loss(low), loss(high)) <= loss(found)
    return None if at_bound else float(np.exp(found))


def calibration_report(log_probs: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, float]:
    """ECE and mean confidence of log-probabilities `(n, classes)` before and after division by `temperature`."""
    before = calibration_metrics(log_probs, labels)
    after = calibration_metrics(log_softmax(log_probs / temperature, axis=1), labels)
    return {
        "temperature": temperature,
        **{f"{name}_before": value for name, value in before.items()},
        **{f"{name}_after": value for name, value in after.items()},
    }


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> pd.DataFrame:
    """
    Risk-coverage curve (Geifman & El-Yaniv 2017, arXiv 1705.08500): error rate of the k most confident answers.

    Answers of equal confidence have no order: their errors count as evenly spread among them.

    Args:
        confidence: Confidence of each answer, `(n,)`.
        correct: Whether each answer is correct, `(n,)`.

    Returns:
        `coverage` (k / n), `risk` (error rate of the k most confident) and `threshold` (their lowest confidence), for
        k from 1 to n.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked, errors = confidence[order], np.cumsum(~np.asarray(correct, dtype=bool)[order])
    counts = np.arange(1, len(ranked) + 1)
    ends = np.append(ranked[1:] != ranked[:-1], True)
    expected = np.interp(counts, np.append(0, counts[ends]), np.append(0, errors[ends]))
    return pd.DataFrame({"coverage": counts / len(ranked), "risk": expected / counts, "threshold": ranked})


def aurc(curve: pd.DataFrame) -> float:
    """Area under the risk-coverage curve (Geifman et al. 2019, arXiv 1805.08206): its mean risk; lower is better."""
    return float(curve["risk"].mean())


def threshold_for_risk(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float | None:
    """
    The lowest confidence threshold at which the error rate of the answers that reach it is at most `risk`.

    Args:
        confidence: Confidence of each answer, `(n,)`.
        correct: Whether each answer is correct, `(n,)`.
        risk: Highest error rate allowed.

    Returns:
        `None` if the error rate is higher at every threshold.
    """
    curve = risk_coverage(confidence, correct)
    whole = curve[curve["threshold"] != curve["threshold"].shift(-1)]
    allowed = whole["threshold"][whole["risk"] <= risk]
    return float(allowed.min()) if len(allowed) else None


def acceptance_threshold(confidence: np.ndarray, accepted: float) -> float:
    """The threshold that a fraction `accepted` of these confidences, `(n,)`, reaches or exceeds."""
    return float(np.quantile(confidence, 1 - accepted))


def examples_for_threshold(accepted: float) -> int:
    """
    How many examples `acceptance_threshold` needs: at least 50, and enough that one is expected below the threshold.

    With fewer examples, the threshold is just the lowest confidence in the sample.
    """
    return max(50, math.ceil(round(1 / (1 - accepted), 6))) if accepted < 1 else 50


def unknown_auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """AUROC of separating known from unknown examples by their confidences, `(n,)` and `(m,)`."""
    truth = np.concatenate([np.ones(len(known)), np.zeros(len(unknown))])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))
