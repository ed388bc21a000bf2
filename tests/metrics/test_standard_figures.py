"""Every figure with a standard name against scikit-learn, or its published definition, on random cases."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from hf_fer.metrics.calibration import CalibrationMetrics, unknown_auroc
from hf_fer.metrics.classification import classification_metrics
from hf_fer.metrics.multilabel import multilabel_metrics

CASES = range(25)


@pytest.fixture(autouse=True)
def _silent():
    """scikit-learn warns where a class is missing, which is the case under test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_a_class_that_is_predicted_but_never_true_counts_in_macro_f1():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    found = classification_metrics(predicted, truth, ["a", "b", "c"])
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize("case", CASES)
def test_single_label_figures_are_scikit_learns(case):
    rng = np.random.default_rng(case)
    classes, examples = rng.integers(2, 8), rng.integers(1, 30)
    truth = rng.integers(0, rng.integers(1, classes + 1), examples)
    predicted = rng.integers(0, classes, examples)
    found = classification_metrics(predicted, truth, [f"class {index}" for index in range(classes)])
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, predicted))
    assert found["uar"] == pytest.approx(sklearn_metrics.balanced_accuracy_score(truth, predicted))
    for average in ("macro", "weighted"):
        assert found[f"{average}_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, predicted, average=average))
    report = sklearn_metrics.classification_report(truth, predicted, output_dict=True)
    for index in {*truth, *predicted}:
        own, theirs = found["per_class"][f"class {index}"], report[str(index)]
        for name, standard in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert own[name] == pytest.approx(theirs[standard])
    assert found["confusion_matrix"] == (
        sklearn_metrics.confusion_matrix(truth, predicted, labels=range(classes)).tolist()
    )


@pytest.mark.parametrize("case", CASES)
def test_multilabel_figures_are_scikit_learns(case):
    rng = np.random.default_rng(case)
    labels, examples = rng.integers(1, 6), rng.integers(2, 30)
    truth = (rng.random((examples, labels)) < rng.random(labels) ** 2).astype(int)  # some labels never occur
    scores = rng.random((examples, labels))
    found = multilabel_metrics(scores, truth, [f"label {index}" for index in range(labels)])
    # scikit-learn takes a single column as the two classes of a binary problem, so labels are averaged by hand.
    f1 = [sklearn_metrics.f1_score(*columns) for columns in zip(truth.T, scores.T > 0.5, strict=True)]
    assert found["macro_f1"] == pytest.approx(np.mean(f1))
    if labels > 1:
        assert found["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(truth, scores > 0.5, average="macro"))
    occurs = [index for index in range(labels) if 0 < truth[:, index].sum() < examples]
    assert found["labels_scored"] == len(occurs)
    if occurs:
        auroc = sklearn_metrics.roc_auc_score(truth[:, occurs], scores[:, occurs], average="macro")
        assert found["macro_auroc"] == pytest.approx(auroc)


def test_auroc_of_unknown_texts_is_scikit_learns():
    rng = np.random.default_rng(0)
    known, unknown = rng.random(20).round(1), rng.random(9).round(1)
    truth = np.repeat([1, 0], [20, 9])
    assert unknown_auroc(known, unknown) == pytest.approx(
        sklearn_metrics.roc_auc_score(truth, np.concatenate([known, unknown]))
    )


@pytest.mark.parametrize("case", CASES)
def test_ece_is_equation_3_of_guo_et_al(case):
    rng = np.random.default_rng(case)
    bins, examples = 15, rng.integers(1, 60)
    confidence = rng.random(examples)
    confidence[: examples // 2] = rng.integers(1, bins + 1, examples // 2) / bins  # on the edges of bins
    correct = rng.integers(0, 2, examples)
    expected = 0.0
    for number in range(1, bins + 1):
        inside = (confidence > (number - 1) / bins) & (confidence <= number / bins)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    found = CalibrationMetrics(bins, keep_in_memory=True).compute(predictions=confidence, references=correct)
    assert found["ece"] == pytest.approx(expected)
