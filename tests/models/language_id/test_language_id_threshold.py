"""The threshold below which a text is of no known language: fitted on enough texts, or not at all."""

import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedConfig

from hf_fer.metrics.calibration import examples_for_threshold
from hf_fer.metrics.scored import Scored
from hf_fer.reporting import report
from hf_fer.task.find import parse_task


class Model:
    config = PreTrainedConfig()


def calibrated(num_texts: int, tmp_path):
    task = parse_task(["--task", "language_id", "--dataset", "demo", "--output_dir", str(tmp_path)])
    task.model = Model()
    rng = np.random.default_rng(0)
    labels = np.arange(num_texts) % 3
    logits = np.eye(3)[labels] + rng.normal(size=(num_texts, 3))
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    scored = Scored(pd.DataFrame(index=range(num_texts)), labels, log_probs)
    task.scored["validation"] = scored
    task.calibrate(scored)
    return task, task.detail_metrics("validation", None, None, task.model)


def test_twelve_texts_set_no_threshold_and_the_page_begins_with_it(tmp_path):
    task, found = calibrated(12, tmp_path)
    assert task.threshold == task.model.config.language_id["unknown_threshold"] == 0
    page = report.results_page({"validation": {**found, "samples": 12, "accuracy": 1.0}}, [])
    first = page.splitlines()[0]
    assert "No unknown threshold: 12 validation texts are too few" in first
    assert "it needs 50" in first


def test_enough_texts_set_it_and_say_so(tmp_path):
    task, found = calibrated(60, tmp_path)
    assert task.threshold > 0
    assert "warnings" not in found
    assert any("fitted on 60 validation texts" in remark for remark in found["remarks"])


@pytest.mark.parametrize(("accepted", "needed"), [(0.5, 50), (0.98, 50), (0.99, 100), (1.0, 50)])
def test_examples_for_threshold(accepted, needed):
    assert examples_for_threshold(accepted) == needed
