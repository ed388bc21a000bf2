"""Metrics of several labels, of places and of prototypes, against small cases and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from hf_fer.metrics.localization import pointing_game
from hf_fer.metrics.multilabel import multilabel_metrics
from hf_fer.metrics.prototypes import prototype_diversity


class TestMultilabel:
    def test_agrees_with_scikit_learn(self):
        rng = np.random.default_rng(0)
        truth = rng.integers(0, 2, (50, 3))
        scores = (truth * 0.3 + rng.random((50, 3))) / 1.3
        metrics = multilabel_metrics(scores, truth, ["a", "b", "c"])
        assert metrics["macro_auroc"] == pytest.approx(roc_auc_score(truth, scores, average="macro"))
        assert metrics["macro_f1"] == pytest.approx(f1_score(truth, scores > 0.5, average="macro"))
        assert metrics["per_label"]["b"]["support"] == truth[:, 1].sum()

    def test_a_label_that_is_never_there_has_no_auroc(self):
        scores = np.array([[0.9, 0.2], [0.1, 0.8]])
        metrics = multilabel_metrics(scores, np.array([[1, 0], [0, 0]]), ["a", "b"])
        assert metrics["macro_auroc"] == 1
        assert metrics["macro_f1"] == 0.5
        assert metrics["labels_scored"] == 1
        assert metrics["per_label"]["b"]["auroc"] is None

    def test_soft_targets_and_unreadable_rows(self):
        scores = np.array([[0.9], [0.1], [0.9]])
        metrics = multilabel_metrics(scores, np.array([[2 / 3], [1 / 3], [-100]]), ["a"])
        assert metrics["macro_auroc"] == metrics["macro_f1"] == 1

    def test_nothing_to_score(self):
        with pytest.raises(ValueError, match="nothing to score"):
            multilabel_metrics(np.ones((1, 1)), np.full((1, 1), -100.0), ["a"])


class TestPointingGame:
    points = np.array([[[0.1, 0.1], [0.9, 0.9]], [[0.5, 0.5], [0.5, 0.5]]])

    def test_hits_by_category(self):
        """`a` hits in both images, in one of its two boxes; `b` misses once: mean of 1 and 0."""
        boxes = [[[0, 0, 0, 0.2, 0.2], [0, 0.6, 0.6, 0.7, 0.7], [1, 0, 0, 0.5, 0.5]], [[0, 0.4, 0.4, 0.6, 0.6]]]
        metrics = pointing_game(self.points, boxes, ["a", "b"])
        assert metrics["pointing_game"] == 0.5
        assert metrics["per_category"] == {"a": {"hits": 2, "maps": 2}, "b": {"hits": 0, "maps": 1}}

    def test_no_boxes(self):
        assert pointing_game(self.points, [[], []], ["a", "b"]) is None


class TestDiversity:
    def test_collapse_and_right_angles(self):
        same, apart = np.ones((3, 2)), np.array([[1.0, 0], [0, 5], [-2, 0]])
        metrics = prototype_diversity(np.stack([same, apart]))
        assert metrics["highest_prototype_cosine"] == pytest.approx(1)
        assert metrics["prototype_cosine"] == pytest.approx((1 - 1 / 3) / 2)

    def test_one_prototype_each(self):
        assert prototype_diversity(np.ones((2, 1, 3))) == {}
