"""What the report says of how sure words are, and of single utterances."""

import pandas as pd
import pytest

from hf_fer.metrics.transcription import right_words
from hf_fer.models.speech_to_text.train.listening import Heard, WordConfidence, buckets
from hf_fer.models.speech_to_text.train.report import Recognised


def test_words_are_right_where_they_are_aligned_with_themselves():
    marks = right_words(["một hai ba", "hai"], ["một ba ba bốn", ""])
    assert marks == [[True, False, True, False], []]
    assert right_words([], []) == []


def test_word_confidence():
    heard = Heard(["một ba", "hai"], [[0.9, 0.4], [0.8]], [0.6, 0.8], 1.0)
    found = WordConfidence.of(["một hai", "hai"], heard)
    metrics = found.metrics()
    assert metrics["share_right"] == pytest.approx(2 / 3)
    assert metrics["mean_confidence"] == pytest.approx(0.7)
    assert metrics["ece"] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert (metrics["threshold"], metrics["coverage"]) == (pytest.approx(0.8), pytest.approx(2 / 3))
    assert found.table()["words"].sum() == 3
    assert WordConfidence.of(["hai"], Heard([""], [[]], [0.0], 1.0)).metrics() == {}


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
