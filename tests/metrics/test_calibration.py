"""Calibration figures against values reckoned by hand."""

import numpy as np
import pytest

from hf_fer.metrics.calibration import (
    CalibrationMetrics,
    acceptance_threshold,
    calibration_metrics,
    fit_temperature,
    unknown_auroc,
)


def test_ece_by_hand():
    metric = CalibrationMetrics(num_bins=2, keep_in_memory=True)
    scores = metric.compute(predictions=[0.9, 0.7, 0.3, 1.0], references=[1, 0, 0, 1])
    assert scores["ece"] == pytest.approx((abs(0.1 - 0.7 + 0.0) + 0.3) / 4)
    assert scores["mean_confidence"] == pytest.approx(0.725)


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 5)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in probabilities])
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.1)
    assert fit_temperature(logits, labels) == pytest.approx(1, rel=0.1)


def test_temperature_of_a_perfect_split_is_bounded():
    assert fit_temperature(np.log(np.full((3, 2), 0.01) + np.eye(3, 2) * 0.98), np.array([0, 1, 0])) >= 0.5


def test_calibration_of_log_probabilities():
    log_probs = np.log([[0.8, 0.2], [0.6, 0.4]])
    assert calibration_metrics(log_probs, np.array([0, 1]))["ece"] == pytest.approx((0.2 + 0.6) / 2)


def test_threshold_and_auroc():
    known = np.linspace(0.5, 1, 101)
    threshold = acceptance_threshold(known, 0.9)
    assert (known >= threshold).mean() == pytest.approx(0.9, abs=0.01)
    assert unknown_auroc(np.array([0.9, 0.8]), np.array([0.1, 0.85])) == pytest.approx(0.75)
