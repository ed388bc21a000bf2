"""Predictions of multimodal_fer for many clips."""

from typing import Any

from hf_fer.data.files import CLIP_SUFFIXES, IMAGE_SUFFIXES
from hf_fer.data.manifest import AUDIO_COLUMNS, FILE_COLUMNS, LABEL_COLUMNS, VIDEO_COLUMNS
from hf_fer.task.predictor import ClassPredictor, file_length

from ..timeline_multimodal_fer import ABSTAIN


class ClipPredictor(ClassPredictor):
    """Emotions of clips; with a timeline or `window_seconds`, also of their segments or windows."""

    pipeline_task = "audio-visual-emotion-recognition"
    model_type = "multimodal_fer"
    page = "clip"
    endings = (*CLIP_SUFFIXES, *IMAGE_SUFFIXES)
    columns = {"video": VIDEO_COLUMNS, "audio": AUDIO_COLUMNS, "path": FILE_COLUMNS}
    target_columns = LABEL_COLUMNS
    timeline_options = {"timeline": True}

    @classmethod
    def combine(cls, found: dict[str, Any]) -> Any:
        modalities = {name: value for name, value in found.items() if name != "path"}
        return modalities or found["path"]

    @classmethod
    def from_item(cls, item: dict[str, Any]) -> Any:
        """The keys of an item that the pipeline takes, or the item itself if it has none of them."""
        return {name: item[name] for name in ("video", "audio", "sampling_rate") if name in item} or item

    @classmethod
    def length(cls, value: Any) -> float:
        return file_length(value)

    @property
    def options(self) -> dict[str, Any]:
        """The user's options; by default the pipeline abstains by the model's threshold if it has one."""
        own = {"abstain": True} if self.pipe.model.config.abstention_threshold else {}
        windows = {"return_timestamps": True} if "window_seconds" in self.given else {}
        return {**own, **windows, **self.given}

    @classmethod
    def gives_segments(cls, timeline: bool, options: dict[str, Any]) -> bool:
        return timeline or "window_seconds" in options

    @property
    def has_curve(self) -> bool:
        return self.timeline and self.probabilities

    def row(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, dict):
            return self.ranked(answer, ABSTAIN)
        row = {
            **self.ranked(answer["labels"], ABSTAIN),
            "segments": answer["segments" if self.timeline else "windows"],
        }
        if self.has_curve:
            row["curve"] = [
                {"start": moment["start"], "end": moment["end"]}
                | {f"p_{label}": score for label, score in moment["scores"].items()}
                for moment in answer["curve"]
            ]
        return row
