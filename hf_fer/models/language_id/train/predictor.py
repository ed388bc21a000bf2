"""Predictions of language_id for many texts."""

from typing import Any

from hf_fer.task.predictor import ClassPredictor

from ..codes_language_id import same_language
from ..pipeline_language_id import UNKNOWN
from .text import LABEL_COLUMNS, TEXT_COLUMNS


class TextPredictor(ClassPredictor):
    """Languages of texts; with a timeline, also of their spans in characters."""

    pipeline_task = "text-language-identification"
    page = "text"
    endings = (".txt",)
    columns = {"text": TEXT_COLUMNS}
    target_columns = LABEL_COLUMNS
    takes_texts = True
    in_seconds = False
    timeline_options = {"spans": True}
    batch_size = 64
    inputs_per_call = 2048  # the pipeline sorts the windows of these by length

    @property
    def options(self) -> dict[str, Any]:
        """The user's options, with enough languages for the columns: the best one may come after `unknown`."""
        return {"top_k": len(self.labels) + 1 if self.probabilities else 2, **self.given}

    @classmethod
    def gives_segments(cls, timeline: bool, options: dict[str, Any]) -> bool:
        return timeline or bool(options.get("spans"))

    def row(self, answer: Any) -> dict[str, Any]:
        if isinstance(answer, dict):
            return {**self.ranked(answer["languages"], UNKNOWN), "segments": answer["spans"]}
        return self.ranked(answer, UNKNOWN)

    @classmethod
    def class_of(cls, name: str, labels: list[str]) -> int | None:
        """The index of the label itself, or of any code, tag or name of the same language."""
        exact = super().class_of(name, labels)
        if exact is not None:
            return exact
        found = same_language(name, labels)
        return None if found is None else labels.index(found)
