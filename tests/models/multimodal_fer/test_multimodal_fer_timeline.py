"""What is shown when: windows to a curve, a smoothed path and segments, and through the pipeline."""

import itertools

import numpy as np
import pytest
import torch
from media import tone, write_clip
from models.multimodal_fer.test_multimodal_fer_processing import new_processor
from transformers import pipeline

from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.timeline_multimodal_fer import ABSTAIN, Curve, curve_of, segments_of, smoothed_path
from hf_fer.models.multimodal_fer.windows_multimodal_fer import Window, window_times


def sure(classes: list[int], probability: float = 0.9) -> np.ndarray:
    """Log-probabilities `(len(classes), 2)` of two classes."""
    rows = np.full((len(classes), 2), 1 - probability)
    rows[np.arange(len(classes)), classes] = probability
    return np.log(rows)


def curve(classes: list[int], seconds: float = 1.0, probability: float = 0.9) -> Curve:
    starts = np.arange(len(classes)) * seconds
    return Curve(starts, starts + seconds, sure(classes, probability))


def test_a_moment_has_the_mean_of_the_windows_over_it_and_a_gap_has_none():
    log_probs = np.log([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
    found = curve_of([Window(0, 2), Window(1, 3), Window(5, 6)], log_probs)
    assert found.starts.tolist() == [0, 1, 2, 5]
    assert found.ends.tolist() == [1, 2, 3, 6]
    between = np.sqrt([0.8 * 0.5, 0.2 * 0.5])
    expected = [[0.8, 0.2], between / between.sum(), [0.5, 0.5], [0.1, 0.9]]
    np.testing.assert_allclose(np.exp(found.log_probs), expected)


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1.0, 100.0])
def test_the_path_is_the_best_of_all_paths(penalty):
    draw = np.random.default_rng(0)
    log_probs = np.log(draw.dirichlet([0.5] * 3, size=6))
    found = Curve(np.arange(6.0), np.arange(6.0) + draw.uniform(0.2, 1, 6), log_probs)
    weights = found.ends - found.starts

    def total(path):
        changes = sum(one != other for one, other in itertools.pairwise(path))
        return sum(weights[cell] / 2 * log_probs[cell, choice] for cell, choice in enumerate(path)) - penalty * changes

    best = max(itertools.product(range(3), repeat=6), key=total)
    assert smoothed_path(found, 2.0, penalty).tolist() == list(best)


def test_a_moments_doubt_is_smoothed_away_and_a_lasting_change_is_not():
    found = curve([0, 0, 0, 1, 0, 0, 1, 1, 1, 1])
    assert smoothed_path(found, 1.0, 2.0).tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert smoothed_path(found, 1.0, 0.0).tolist() == [0, 0, 0, 1, 0, 0, 1, 1, 1, 1]


def test_segments_do_not_bridge_a_gap():
    found = Curve(np.array([0.0, 1, 5, 6]), np.array([1.0, 2, 6, 7]), sure([0, 0, 0, 1]))
    segments = segments_of(found, np.array([0, 0, 0, 1]))
    assert [(one["start"], one["end"], one["class"]) for one in segments] == [(0, 2, 0), (5, 6, 0), (6, 7, 1)]
    assert [one["score"] for one in segments] == pytest.approx([0.9] * 3)


@pytest.fixture
def classify(tmp_path):
    config = MultimodalFerConfig.from_preset("tiny", num_frames=6, modalities=["audio"])
    config.abstention_threshold = 0.6
    return pipeline(
        "audio-visual-emotion-recognition",
        model=MultimodalFerForEmotionClassification(config),
        processor=new_processor(),
    )


def test_the_pipeline_tells_when_the_emotion_changes(classify, monkeypatch, tmp_path):
    clip = write_clip(tmp_path / "a.wav", audio=tone(12, 16000))
    names = classify.model.config.id2label
    windows = iter(window_times(12, 2, 0.5))

    def told(tensors):
        """Class 1 where a window's middle is before 5 s, then class 3, of which nobody is sure."""
        early = next(windows).start + 1 < 5
        logits = torch.zeros(1, len(names))
        logits[0, 1 if early else 3] = 6.0 if early else 1.0
        return {"logits": logits}

    monkeypatch.setattr(classify, "forward", told)
    answer = classify(str(clip), timeline=True, abstain=True)
    first, second = answer["segments"]
    assert (first["start"], first["label"]) == (0, names[1])
    assert first["score"] > 0.8
    assert first["end"] == second["start"] == pytest.approx(5.5, abs=0.5)
    assert second["label"] == ABSTAIN
    assert second["score"] > 0.4
    assert second["end"] == 12
    assert next(windows, None) is None
    for moment in answer["curve"]:
        assert sum(moment["scores"].values()) == pytest.approx(1)


def test_a_timeline_of_a_real_file_covers_it(classify, tmp_path):
    clip = write_clip(tmp_path / "a.wav", audio=tone(3.3, 16000))
    answer = classify([str(clip)] * 2, timeline=True, window_seconds=1)[1]
    assert answer["curve"][0]["start"] == 0
    assert answer["segments"][-1]["end"] == pytest.approx(3.3, abs=0.01)
    assert {label["label"] for label in answer["labels"]} == set(classify.model.config.id2label.values())


def test_settings_without_a_timeline_are_refused(classify):
    with pytest.raises(ValueError, match="goes with timeline"):
        classify("a.wav", switch_penalty=1)
    with pytest.raises(ValueError, match="at least 0"):
        classify("a.wav", timeline=True, switch_penalty=-1)
