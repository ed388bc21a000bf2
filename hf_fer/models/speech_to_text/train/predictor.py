"""Predictions of speech_to_text for many recordings."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from hf_fer.data.files import CLIP_SUFFIXES
from hf_fer.task.predictor import SEGMENTS, Predictor, file_length

from .recordings import SOUND_COLUMNS, TRANSCRIPT_COLUMNS, written
from .report import Recognised


class RecordingPredictor(Predictor):
    """Transcripts of recordings, with words and their times as segments."""

    pipeline_task = "timed-speech-recognition"
    page = "recording"
    endings = CLIP_SUFFIXES
    columns = {"audio": SOUND_COLUMNS}
    target_columns = TRANSCRIPT_COLUMNS
    joins_segments = True
    timeline_options = {}
    batch_size = 1  # the pipeline takes a recording as a whole

    @classmethod
    def length(cls, value: Any) -> float:
        return file_length(value)

    @classmethod
    def gives_segments(cls, timeline: bool, options: dict[str, Any]) -> bool:
        return True

    @property
    def fields(self) -> dict[str, pa.DataType]:
        return {"text": pa.string(), "score": pa.float64(), "abstained": pa.bool_(), "segments": SEGMENTS}

    def row(self, answer: Any) -> dict[str, Any]:
        words = [
            {"start": word["start"], "end": word["end"], "label": word["word"], "score": word["confidence"]}
            for word in answer["words"]
        ]
        abstained = answer.get("abstain", False)
        return {"text": answer["text"], "score": answer["confidence"], "abstained": abstained, "segments": words}

    @classmethod
    def score(cls, said: Sequence[str], rows: Sequence[dict[str, Any]], labels: list[str]) -> dict[str, Any]:
        """Error rates in lower case and without punctuation; an empty transcript is not scored."""
        pairs = [(written(true, "plain"), written(row["text"], "plain")) for true, row in zip(said, rows, strict=True)]
        table = pd.DataFrame([pair for pair in pairs if pair[0]], columns=["transcript", "recognised"])
        counts = {"scored": len(table), "not_scored": len(pairs) - len(table)}
        return {**counts, **Recognised.of(table).metrics()} if len(table) else counts
