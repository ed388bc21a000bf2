"""Error rates, confusions and intervals of recognised texts."""

import pandas as pd
import pytest

from hf_fer.metrics.transcription import NOTHING, count_errors, error_interval

SAID = ["a b c", "d", "e f"]
HEARD = ["a x", "d y", "e f"]


def test_counts_are_of_each_utterance():
    errors = count_errors(SAID, HEARD)
    assert errors.table.to_dict("list") == {
        "units": [3, 1, 2],
        "substitutions": [1, 0, 0],
        "deletions": [1, 0, 0],
        "insertions": [0, 1, 0],
    }
    assert errors.rate == pytest.approx(3 / 6)


def test_confusions_leave_out_what_is_right():
    found = count_errors(SAID, HEARD).confusions()
    pairs = set(zip(found["reference"], found["hypothesis"], strict=True))
    assert pairs == {("b", "x"), ("c", NOTHING), (NOTHING, "y")}


def test_nothing_recognised_is_all_deleted():
    assert count_errors(["a b"], [""]).rate == 1.0


def test_characters_count_spaces():
    assert count_errors(["ab c"], ["abc"], characters=True).rate == pytest.approx(1 / 4)


def test_interval_holds_the_rate_and_has_width_without_an_error():
    errors = count_errors(["a b"] * 20, ["a b"] * 20)
    low, high = error_interval(errors, None)["interval"]
    assert low == 0.0
    assert 0.0 < high < 0.2
    errors = count_errors(SAID * 10, HEARD * 10)
    low, high = error_interval(errors, pd.Series(list("abc") * 10))["interval"]
    assert low < errors.rate < high


def test_one_speaker_gives_no_interval():
    found = error_interval(count_errors(SAID, HEARD), pd.Series(["s"] * 3))
    assert found["interval"] is None
    assert "one group" in found["remark"]
