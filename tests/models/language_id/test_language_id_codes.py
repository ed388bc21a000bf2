"""language_id's spans and codes, without a model."""

import inspect

import numpy as np
import pytest

from hf_fer.models.language_id import codes_language_id as codes
from hf_fer.models.language_id.train import languages
from hf_fer.models.language_id.windows_language_id import Window, merge_spans


@pytest.mark.parametrize("text", ["a" * 28 + ". " + "b" * 50, "a" * 80, "a b " * 20, "a" * 58 + ". " + "b" * 20])
@pytest.mark.parametrize("seed", range(30))
def test_spans_follow_one_another(text, seed):
    """Runs of one window between others, with windows that share most of their characters."""
    windows = [Window(0, [1] * 16, start, start + 16) for start in range(0, 64, 4)]
    best = np.random.default_rng(seed).integers(0, 3, len(windows))
    scores = np.log(np.full((len(windows), 3), 0.001))
    scores[range(len(windows)), best] = np.log(0.998)
    spans = merge_spans(text, windows, scores, switch_penalty=0.5)
    assert spans[0]["start"] == 0
    assert spans[-1]["end"] == windows[-1].end
    assert all(span["start"] < span["end"] for span in spans)
    assert [span["end"] for span in spans[:-1]] == [span["start"] for span in spans[1:]]


def test_a_single_window_between_two_runs():
    text = "a" * 28 + ". " + "b" * 50
    windows = [Window(0, [1] * 16, start, start + 16) for start in range(0, 48, 4)]
    scores = np.log(np.full((12, 3), 0.001))
    scores[range(12), [0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2]] = np.log(0.998)
    spans = merge_spans(text, windows, scores, switch_penalty=4.0)
    assert all(span["start"] < span["end"] for span in spans)


@pytest.mark.parametrize(
    ("label", "name"),
    [("eng", "en"), ("zh_cn", "zh-CN"), ("Farsi", "fas"), ("fa", "fas"), ("EN-latn", None), ("klingonese", None)],
)
def test_labels_are_known_by_every_name_that_training_takes(label, name):
    assert codes.same_language(label, ["odd label", "en", "zh-CN", "fas"]) == name


def test_the_copy_that_travels_is_a_copy():
    for name in ("language_tag", "subtag"):
        assert inspect.getsource(getattr(codes, name)) == inspect.getsource(getattr(languages, name))
    assert codes.COMMON_NAMES == languages.COMMON_NAMES
    assert codes.TAG == languages.TAG
