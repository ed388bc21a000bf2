"""Calibration figures against values reckoned by hand."""

import numpy as np
import pandas as pd
import pytest

from hf_fer.metrics.calibration import (
    CalibrationMetrics,
    acceptance_threshold,
    aurc,
    calibration_metrics,
    calibration_report,
    fit_temperature,
    risk_coverage,
    threshold_for_risk,
    unknown_auroc,
)
from hf_fer.metrics.scored import Scored
from hf_fer.reporting.confidence import Calibration


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


@pytest.mark.parametrize("temperature", [0.05, 0.14, 0.5, 1.0, 30.0])
def test_temperature_is_the_optimum_wherever_it_is(temperature):
    """Labels drawn from known probabilities: logits scaled by any factor come back to them."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4000, 4)) * 1.5
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    assert fit_temperature(temperature * logits, labels) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("labels", [[0, 1, 0], [1, 0, 1]], ids=["all right", "all wrong"])
def test_a_split_without_an_optimum_has_no_temperature(labels):
    log_probs = np.log(np.full((3, 2), 0.01) + np.eye(2)[[0, 1, 0]] * 0.98)
    assert fit_temperature(log_probs, np.array(labels)) is None


def test_a_temperature_that_cannot_be_fitted_is_said():
    log_probs = np.log(np.full((12, 2), 0.01) + np.eye(2)[[0, 1] * 6] * 0.98)
    fitted = Calibration.fit(Scored(pd.DataFrame(index=range(12)), np.array([0, 1] * 6), log_probs), 0.9, None)
    assert fitted.temperature == 1
    assert "No temperature was fitted" in fitted.remark
    assert "all 12 validation examples are answered correctly" in fitted.remark


def test_confidence_is_the_softmax_of_logits_divided_by_the_temperature():
    log_probs = np.log([[0.8, 0.2]])
    part = Scored(pd.DataFrame(index=[0]), np.array([0]), log_probs)
    assert part.confidence(2.0) == pytest.approx([0.8**0.5 / (0.8**0.5 + 0.2**0.5)])
    assert part.table(["a", "b"], 2.0)["confidence"].tolist() == pytest.approx([2 / 3])


def test_calibration_of_log_probabilities():
    log_probs = np.log([[0.8, 0.2], [0.6, 0.4]])
    assert calibration_metrics(log_probs, np.array([0, 1]))["ece"] == pytest.approx((0.2 + 0.6) / 2)


def test_threshold_and_auroc():
    known = np.linspace(0.5, 1, 101)
    threshold = acceptance_threshold(known, 0.9)
    assert (known >= threshold).mean() == pytest.approx(0.9, abs=0.01)
    assert unknown_auroc(np.array([0.9, 0.8]), np.array([0.1, 0.85])) == pytest.approx(0.75)


def test_report_before_and_after():
    log_probs = np.log([[0.9, 0.1], [0.9, 0.1]])
    report = calibration_report(log_probs, np.array([0, 1]), temperature=1e6)
    assert report["ece_before"] == pytest.approx(0.4)
    assert report["ece_after"] == pytest.approx(0, abs=1e-5)
    assert report["mean_confidence_after"] == pytest.approx(0.5, abs=1e-5)


def test_risk_coverage_by_hand():
    curve = risk_coverage(np.array([0.5, 0.9, 0.7, 0.8]), np.array([True, True, False, True]))
    assert curve["coverage"].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve["risk"].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert curve["threshold"].tolist() == [0.9, 0.8, 0.7, 0.5]
    assert aurc(curve) == pytest.approx((1 / 3 + 1 / 4) / 4)


def test_equal_confidences_have_no_order():
    right = np.array([True, False, True, False])
    curves = [risk_coverage(np.full(4, 0.6), order) for order in (right, right[::-1], np.sort(right))]
    for curve in curves:
        assert curve["risk"].tolist() == pytest.approx([0.5] * 4)


@pytest.mark.parametrize(("risk", "threshold"), [(0.0, 0.9), (0.3, 0.4), (0.25, 0.6), (0.2, 0.9)])
def test_the_threshold_of_a_risk_answers_as_much_as_it_may(risk, threshold):
    confidence = np.array([0.9, 0.9, 0.6, 0.6, 0.4, 0.4, 0.4])
    right = np.array([True, True, False, True, True, False, True])
    assert threshold_for_risk(confidence, right, risk) == threshold
    answered = confidence >= threshold
    assert 1 - right[answered].mean() <= risk


def test_a_risk_that_cannot_be_had():
    assert threshold_for_risk(np.array([0.9, 0.8]), np.array([False, True]), 0.1) is None
