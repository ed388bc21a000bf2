"""Bootstrap intervals: against theory, against the definition, and over groups where clips are alike."""

import numpy as np
import pytest

from hf_fer.metrics.classification import classification_metrics
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
    assert by_group["bootstrap"] == {"unit": "group", "units": 20, "resamples": 2000, "seed": 0}


def test_a_draw_is_scored_as_its_clips_would_be():
    """With one resample both ends are its score; here the draw is made by hand, clip by clip."""
    rng = np.random.default_rng(1)
    references, predictions = rng.integers(0, 3, (2, 60))
    groups = np.repeat(np.arange(6), 10)
    found = bootstrap_intervals(predictions, references, groups, resamples=1, seed=7)
    drawn = np.random.default_rng(7).multinomial(6, np.full(6, 1 / 6), size=1)[0]
    index = np.concatenate([np.tile(np.flatnonzero(groups == group), times) for group, times in enumerate(drawn)])
    expected = classification_metrics(predictions[index], references[index], ["a", "b", "c"])
    assert found["uar_ci95"] == pytest.approx([expected["uar"]] * 2)
    assert found["accuracy_ci95"] == pytest.approx([expected["accuracy"]] * 2)


def test_same_seed_same_interval():
    references, predictions = np.random.default_rng(2).integers(0, 4, (2, 100))
    assert bootstrap_intervals(predictions, references, None) == bootstrap_intervals(predictions, references, None)
    other = bootstrap_intervals(predictions, references, None, seed=1)
    assert other["uar_ci95"] != bootstrap_intervals(predictions, references, None)["uar_ci95"]


def test_one_group_has_no_interval():
    found = bootstrap_intervals(np.array([0, 1]), np.array([0, 0]), ["a", "a"])
    assert "uar_ci95" not in found
    assert "No intervals: 1 group" in describe_bootstrap(found["bootstrap"])


def test_what_was_drawn_is_said():
    import pandas as pd

    truth = np.array([0, 1, 0, 1])
    grouped = interval_metrics(truth, truth, pd.Series(["a", "a", "b", "b"]))
    assert "2,000 bootstrap resamples (seed 0) of 2 groups" in grouped["remarks"][0]
    for groups in (None, pd.Series(["a", None, "b", "b"], dtype=object)):
        alone = interval_metrics(truth, truth, groups)
        assert "of 4 single examples, because the data has no groups" in alone["remarks"][0]
