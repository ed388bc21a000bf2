"""Classification metrics against hand-computed and scikit-learn's values."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from hf_fer.metrics.classification import ClassificationMetrics, breakdown, classification_metrics

LABELS = ["a", "b", "c"]


def test_small_case_by_hand():
    # a: 2 of 3 right; b: 1 of 1 right; c: 0 of 1 right
    result = classification_metrics(np.array([0, 0, 1, 1, 0]), np.array([0, 0, 0, 1, 2]), LABELS)
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["uar"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert result["per_class"]["a"] == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "support": 3,
    }
    assert result["confusion_matrix"] == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_against_scikit_learn():
    generator = np.random.default_rng(0)
    references, predictions = generator.integers(0, 3, (2, 500))
    result = classification_metrics(predictions, references, LABELS)
    assert result["uar"] == pytest.approx(balanced_accuracy_score(references, predictions))
    assert result["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))
    assert result["weighted_f1"] == pytest.approx(f1_score(references, predictions, average="weighted"))


def test_a_class_without_examples_does_not_lower_the_averages():
    result = classification_metrics(np.array([0, 1]), np.array([0, 1]), LABELS)
    assert result["uar"] == 1.0
    assert result["macro_f1"] == 1.0
    assert result["per_class"]["c"]["support"] == 0


def test_unreadable_examples_do_not_count():
    result = classification_metrics(np.array([0, 1, 2]), np.array([0, -100, 2]), LABELS)
    assert result["accuracy"] == 1.0
    with pytest.raises(ValueError, match="nothing to score"):
        classification_metrics(np.array([0]), np.array([-100]), LABELS)


def test_it_is_an_evaluate_metric_that_adds_batches():
    metric = ClassificationMetrics(LABELS, keep_in_memory=True)
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add(prediction=0, reference=2)
    assert metric.compute()["accuracy"] == pytest.approx(2 / 3)


def test_breakdown_scores_each_value_by_itself():
    predictions, references = np.array([0, 1, 1, 2, 0]), np.array([0, 0, 1, 2, 2])
    found = breakdown(predictions, references, ["f", "f", "f", "m", None], LABELS)
    assert list(found) == ["f", "m", "not given"]
    assert found["f"] == {"n": 3, "classes": 2, "accuracy": pytest.approx(2 / 3), "uar": pytest.approx(0.75)}
    assert found["m"] == {"n": 1, "classes": 1, "accuracy": 1.0, "uar": 1.0}
    assert found["not given"]["accuracy"] == 0.0
