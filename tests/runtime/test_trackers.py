"""What the report is told by trackers."""

from types import SimpleNamespace

from transformers.integrations import CodeCarbonCallback

from hf_fer.runtime.trackers import emissions


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
