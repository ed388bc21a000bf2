"""The threshold below which a text is of no known language: fitted on enough texts, or not at all."""

import numpy as np
import pandas as pd
import pytest

from hf_fer.metrics.calibration import examples_for_threshold
from hf_fer.metrics.scored import Scored
from hf_fer.models.language_id.train.score import Fitted, LanguageReport, calibrate, report_of_texts
from hf_fer.reporting import report


def fitted_on(num_texts: int) -> tuple[Fitted, LanguageReport]:
    rng = np.random.default_rng(0)
    labels = np.arange(num_texts) % 3
    logits = np.eye(3)[labels] + rng.normal(size=(num_texts, 3))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scored = Scored(pd.DataFrame(index=range(num_texts)), labels, log_probs)
    fitted = calibrate(scored, 0.98)
    return fitted, report_of_texts("validation", scored, ["de", "en", "vi"], fitted)


def test_twelve_texts_set_no_threshold_and_the_page_begins_with_it():
    fitted, found = fitted_on(12)
    assert fitted.settings["unknown_threshold"] == 0
    first = report.results_page({"validation": found.content()}, []).splitlines()[0]
    assert "No unknown threshold: 12 validation texts are too few" in first
    assert "50 are needed" in first


def test_enough_texts_set_it_and_say_so():
    fitted, found = fitted_on(60)
    assert fitted.settings["unknown_threshold"] > 0
    assert not found.warnings
    assert any("fitted on 60 validation texts" in remark for remark in found.remarks)


@pytest.mark.parametrize(("accepted", "needed"), [(0.5, 50), (0.98, 50), (0.99, 100), (1.0, 50)])
def test_examples_for_threshold(accepted, needed):
    assert examples_for_threshold(accepted) == needed
