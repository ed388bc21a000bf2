"""Bootstrap intervals: against theory, against the definition, and over groups where clips are alike."""

import numpy as np
import pytest
from scipy.stats import binomtest

from hf_fer.metrics.intervals import bootstrap_intervals, describe_bootstrap, interval_metrics


def test_independent_examples_have_the_binomial_interval():
    rng = np.random.default_rng(0)
    references = np.zeros(2000, dtype=int)
    predictions = (rng.random(2000) < 0.2).astype(int)
    low, high = bootstrap_intervals(predictions, references, None)["accuracy_ci95"]
    half = 1.96 * np.sqrt(0.2 * 0.8 / 2000)
    accuracy = np.mean(predictions == references)
    assert (low, high) == pytest.approx((accuracy - half, accuracy + half), abs=0.004)


def test_clips_of_one_speaker_are_alike_and_the_interval_says_so():
    """20 speakers whose 50 clips are all right or all wrong: as much as 20 coins say, not 1000."""
    rng = np.random.default_rng(0)
    groups = np.repeat([f"s{number}" for number in range(20)], 50)
    references = np.tile([0, 1], 500)
    predictions = np.where(np.repeat(rng.random(20) < 0.6, 50), references, 1 - references)
    by_group = bootstrap_intervals(predictions, references, groups)
    by_clip = bootstrap_intervals(predictions, references, None)
    widths = [found["uar_ci95"][1] - found["uar_ci95"][0] for found in (by_group, by_clip)]
    assert widths[0] == pytest.approx(2 * 1.96 * np.sqrt(0.6 * 0.4 / 20), rel=0.2)
    assert widths[0] > 5 * widths[1]
    assert by_group["bootstrap"] == {"unit": "group", "units": 20, "draws": 2000, "seed": 0}


@pytest.mark.parametrize(("right", "total"), [(12, 12), (11, 12), (6, 12), (0, 12), (97, 100)])
def test_accuracy_of_examples_has_the_clopper_pearson_interval(right, total):
    predictions = (np.arange(total) >= right).astype(int)
    found = bootstrap_intervals(predictions, np.zeros(total, dtype=int), None, draws=20_000)["accuracy_ci95"]
    exact = binomtest(right, total).proportion_ci(method="exact")
    assert found == pytest.approx([exact.low, exact.high], abs=0.015)


def test_no_interval_is_without_width():
    truth = np.arange(24) % 8
    for predictions, score in ((truth, 1.0), (np.zeros(24, dtype=int), 0.125)):
        for groups in (None, np.repeat(np.arange(3), 8)):
            found = bootstrap_intervals(predictions, truth, groups)
            for name in ("accuracy_ci95", "uar_ci95"):
                low, high = found[name]
                assert low <= score + 1e-9
                assert high >= score - 1e-9
                assert high - low > 0.1
                assert high <= 1


def test_intervals_cover_the_true_score_of_many_small_classes():
    rng = np.random.default_rng(3)
    truth, rate, covered = np.arange(200) % 40, 0.95, 0
    for _ in range(100):
        predictions = np.where(rng.random(200) < rate, truth, (truth + 1) % 40)
        low, high = bootstrap_intervals(predictions, truth, None, draws=500)["uar_ci95"]
        covered += low <= rate <= high
    assert covered >= 90


def test_same_seed_same_interval():
    references, predictions = np.random.default_rng(2).integers(0, 4, (2, 100))
    assert bootstrap_intervals(predictions, references, None) == bootstrap_intervals(predictions, references, None)
    other = bootstrap_intervals(predictions, references, None, seed=1)
    assert other["uar_ci95"] != bootstrap_intervals(predictions, references, None)["uar_ci95"]


def test_one_group_has_no_interval():
    found = bootstrap_intervals(np.array([0, 1]), np.array([0, 0]), ["a", "a"])
    assert "uar_ci95" not in found
    assert "No intervals: one group" in describe_bootstrap(found["bootstrap"])


def test_what_was_drawn_is_said():
    import pandas as pd

    truth = np.array([0, 1, 0, 1])
    grouped = interval_metrics(truth, truth, pd.Series(["a", "a", "b", "b"]))
    assert "2,000 draws (seed 0) of a Bayesian bootstrap over 2 groups" in grouped["remarks"][0]
    for groups in (None, pd.Series(["a", None, "b", "b"], dtype=object)):
        alone = interval_metrics(truth, truth, groups)
        assert "over 4 single examples, because the data has no groups" in alone["remarks"][0]
