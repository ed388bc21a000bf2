"""What the report says of how sure words are, and of single utterances."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from transformers import PreTrainedConfig

from hf_fer.metrics.transcription import right_words
from hf_fer.models.speech_to_text.alignment_speech_to_text import Token, Word, at_temperature
from hf_fer.models.speech_to_text.train.report import Recognised
from hf_fer.models.speech_to_text.train.word_confidence import Evidence, WordCalibration, WordConfidence, buckets


def test_words_are_right_where_they_are_aligned_with_themselves():
    marks = right_words(["một hai ba", "hai"], ["một ba ba bốn", ""])
    assert marks == [[True, False, True, False], []]
    assert right_words([], []) == []


def evidence_of(recordings, vocabulary=4):
    """Words of one token each, whose probabilities are given, the rest shared by the other tokens."""
    found = Evidence()
    for sure in recordings:
        probabilities = [[value, *[(1 - value) / (vocabulary - 1)] * (vocabulary - 1)] for value in sure]
        log_probs = np.log(np.array(probabilities).reshape(len(sure), vocabulary))
        tokens = [Token(0, at, at + 1, float(log_probs[at, 0])) for at in range(len(sure))]
        found.add([Word("x", token.start, token.stop, token.score, (token,)) for token in tokens], log_probs)
    return found


def test_word_confidence():
    evidence = evidence_of([[0.9, 0.4], [0.8]])
    found = WordConfidence.of(["một hai", "hai"], ["một ba", "hai"], evidence, 1.0)
    metrics = found.metrics(0.7)
    assert metrics["share_right"] == pytest.approx(2 / 3)
    assert metrics["mean_confidence"] == pytest.approx(0.7)
    assert metrics["ece"] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert (metrics["coverage"], metrics["share_right_of_kept"]) == (pytest.approx(2 / 3), 1.0)
    assert "threshold" not in found.metrics()
    assert found.table()["words"].sum() == 3
    assert evidence.utterances(1.0) == pytest.approx([0.6, 0.8])
    nothing = evidence_of([[]])
    assert WordConfidence.of(["hai"], [""], nothing, 1.0).metrics() == {}
    assert nothing.utterances(2.0) == [0.0]


class TestCalibration:
    def test_the_temperature_that_spoilt_confidences_is_found(self):
        draw = np.random.default_rng(0)
        sure = draw.uniform(0.35, 0.99, 4000)
        right = draw.uniform(size=4000) < sure
        spoilt = evidence_of([sure])
        spoilt.frames = [log_softmax(2.5 * spoilt.frames[0], axis=1)]
        found = WordCalibration.fit(spoilt, right, 0.05)
        assert found.temperature == pytest.approx(2.5, rel=0.1)
        before, after = (WordConfidence(np.exp(spoilt.scores(heat)[0]), right) for heat in (1.0, found.temperature))
        assert after.ece()["ece"] < 0.25 * before.ece()["ece"]
        kept = np.exp(spoilt.scores(found.temperature)[0]) >= found.threshold
        assert 0 < (~right[kept]).mean() <= 0.05
        assert "was fitted on the words of validation" in found.remark
        config = PreTrainedConfig()
        found.put(config)
        assert WordCalibration.stored(config).temperature == found.temperature

    @pytest.mark.parametrize(
        ("right", "said"),
        [([True] * 3, "all 3 are right"), ([False] * 3, "none between 0.01 and 100"), ([], "there are no words")],
    )
    def test_words_that_fit_no_temperature(self, right, said):
        evidence = evidence_of([[0.9, 0.7, 0.8][: len(right)]])
        found = WordCalibration.fit(evidence, np.array(right, dtype=bool), 0.05)
        assert (found.temperature, found.threshold) == (1.0, 0.0)
        assert said in found.remark
        assert "No abstention threshold" in found.remark

    def test_scores_of_tokens_are_those_of_the_divided_logits(self):
        log_probs = log_softmax(np.random.default_rng(0).normal(size=(9, 5)), axis=1)
        tokens = [Token(2, 0, 3, -1.0), Token(4, 5, 6, -1.0)]
        warm = at_temperature(tokens, log_probs, 3.0)
        best = log_probs[:3, 2].argmax()
        assert warm[0].score == pytest.approx(log_softmax(log_probs[best] / 3)[2])
        assert warm[1].score == pytest.approx(log_softmax(log_probs[5] / 3)[4])
        assert at_temperature(tokens, log_probs, 1.0) is tokens


def test_confidences_of_0_and_1_are_in_an_interval():
    assert list(buckets([0.0, 0.5, 1.0])) == ["0.00 to 0.50", "0.00 to 0.50", "0.99 to 1.00"]


def test_worst_and_median_utterances_are_aligned_word_by_word():
    said = [f"từ {place} hai ba" for place in range(30)]
    heard = [text if place < 25 else "từ" for place, text in enumerate(said)]
    rows = pd.DataFrame(
        {"transcript": said, "recognised": heard, "audio": [f"clip{place}.wav" for place in range(30)]}
    )
    worst, median = Recognised.of(rows).alignments().split("The 10 median")
    assert [f"clip{place}.wav" in worst for place in (25, 29, 9)] == [True, True, False]
    assert "WER 0.750" in worst
    assert "REF: từ 25 hai ba\nHYP: từ ** *** **\n         D   D  D" in worst
    assert "WER 0.750" not in median
    assert median.count("REF: ") == 10
