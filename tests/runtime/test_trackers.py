"""What trackers get of the report, and what the report is told by trackers."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imsave
from transformers.integrations import CodeCarbonCallback, TrackioCallback

from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.runtime.trackers import emissions, log_report


def run_with(*trackers) -> SimpleNamespace:
    """A Trainer with a callback of CodeCarbon for each tracker, which needs no CodeCarbon."""
    callbacks = [CodeCarbonCallback.__new__(CodeCarbonCallback) for _ in trackers]
    for callback, tracker in zip(callbacks, trackers, strict=True):
        callback.tracker = tracker
    return SimpleNamespace(callback_handler=SimpleNamespace(callbacks=[object(), *callbacks]))


def test_emissions_are_those_of_a_tracker_that_has_finished():
    data = SimpleNamespace(energy_consumed=0.5, emissions=0.1, country_name="Vietnam")
    expected = {"energy_wh": 500.0, "co2_g": 100.0, "co2_country": "Vietnam"}
    assert emissions(run_with(SimpleNamespace(final_emissions_data=data))) == expected


def test_without_a_tracker_or_before_its_end_nothing_is_said():
    # other processes than the first of a machine have no tracker
    assert emissions(run_with()) == emissions(run_with(None)) == {}
    assert emissions(run_with(SimpleNamespace(final_emissions_data=None))) == {}


@pytest.mark.parametrize("still_open", [True, False], ids=["run still open", "run closed"])
def test_trackio_gets_scores_and_shareable_pictures(tmp_path, monkeypatch, still_open):
    """A real Trackio project in a folder, as it is without a Space."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    project = f"test-{tmp_path.name}"
    for name in ("confusion_matrix_counts.png", "clip.png"):
        imsave(tmp_path / name, np.zeros((4, 4, 3)))
    args = TrainingArguments(output_dir=str(tmp_path / "run"), project=project, run_name="run", use_cpu=True)
    trainer = SimpleNamespace(
        args=args,
        state=SimpleNamespace(global_step=5),
        callback_handler=SimpleNamespace(callbacks=[TrackioCallback.__new__(TrackioCallback)]),
    )
    if still_open:
        trackio.init(project=project, name="run")
    log_report(trainer, {"test/uar": 0.75}, tmp_path, ("confusion_matrix_*.png",))
    (logged,) = SQLiteStorage.get_logs(project, "run")
    assert logged["test/uar"] == 0.75
    assert "confusion_matrix_counts" in logged
    assert "clip" not in logged
    assert trackio.context_vars.current_run.get() is None
