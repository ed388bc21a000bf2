"""`pipeline("audio-visual-emotion-recognition", model=...)`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import Pipeline
from transformers.utils import logging

from .decoding_multimodal_fer import UnusableMediaError, media_tracks
from .face_multimodal_fer import NoFaceError
from .patches_multimodal_fer import fade, frames_seen, patch_grids
from .timeline_multimodal_fer import ABSTAIN, SWITCH_PENALTY, TIMELINE_SECONDS, TIMELINE_STRIDES, timeline_of
from .windows_multimodal_fer import Window, clip_windows

logger = logging.get_logger(__name__)


class AudioVisualEmotionRecognitionPipeline(Pipeline):
    """
    Recognises the emotion of a clip from its sound, its video or both.

    Inputs are a file (video, or sound alone), or a dictionary with `audio` (a file, or an array or tensor of samples,
    with its rate as `sampling_rate` where that is not the processor's) and `video` (a file, or `uint8` RGB frames
    `(frames, height, width, 3)`), either of which may be missing; or a list or generator of them. For a model of
    visual features, `video` is an array of them or a `.npy` file, and a media file on its own gives its sound only.

    Args (of the call, or of `pipeline` as defaults):
        top_k: How many labels to return; all if not given.
        abstain: `True` abstains where the best score is below the threshold that was fitted on validation and is
            stored with the model; a number in [0, 1] is a threshold of your own.
        batch_size: Clips per forward pass.
        window_seconds: Read a recording in windows of this length, in memory that does not grow with the recording;
            the logits of the windows are averaged. Without it a clip is classified as a whole, and a clip longer than
            the processor's `max_seconds` is refused.
        stride_seconds: From the beginning of one window to that of the next; `window_seconds` if not given.
        return_timestamps: With `window_seconds`, return `{"labels": [...], "windows": [...]}`, each window as
            `{"start", "end", "label", "score"}` in seconds.
        timeline: Return `{"labels": [...], "segments": [...], "curve": [...]}`. Log-probabilities of overlapping
            windows, of `window_seconds` (2) and `stride_seconds` (a quarter of that), are averaged to the curve, as
            `{"start", "end", "scores": {label: probability}}`, and smoothed and merged to segments, as `{"start",
            "end", "label", "score"}`. Segments abstain as clips do.
        switch_penalty: Evidence, in nats, that a change of label in a timeline needs (1); 0 for no smoothing.
        kept_patches: Return `{"labels": [...], "frames": ..., "kept_patches": ...}` for clips that are classified
            whole: the frames as the model sees them, `uint8` RGB `(F, height, width, 3)`, and which of their patches
            the ROI compression kept, `bool (F, rows, columns)`; both are `None` without pictures.
            `fade(frame, kept)` covers the patches that were not kept with a grey veil.

    Returns for each input a list of `{"label", "score"}`, best first, at most `top_k` of them. Scores are calibrated:
    the softmax of the logits divided by the model's temperature. Where the pipeline abstains, `{"label": "abstain"}`
    comes first, with the probability that the best label is wrong as its `score`, and the labels follow.
    """

    fade = staticmethod(fade)

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.tokenizer = None  # batches are padded by the processor

    def _sanitize_parameters(
        self,
        top_k: int | None = None,
        abstain: bool | float | None = None,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        return_timestamps: bool | None = None,
        timeline: bool | None = None,
        switch_penalty: float | None = None,
        kept_patches: bool | None = None,
        **kwargs: Any,
    ) -> tuple[dict, dict, dict]:
        if kwargs:
            raise TypeError(
                f"Unknown parameters {sorted(kwargs)}; this pipeline takes top_k, abstain, batch_size, "
                "window_seconds, stride_seconds, return_timestamps, timeline, switch_penalty and kept_patches."
            )
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        given = {"top_k": top_k, "threshold": None if abstain is None else self._threshold(abstain)}
        windows = {
            "window_seconds": window_seconds,
            "stride_seconds": stride_seconds,
            "return_timestamps": return_timestamps,
            "timeline": timeline or None,
            "switch_penalty": switch_penalty,
        }
        if timeline:
            windows["window_seconds"] = window_seconds or TIMELINE_SECONDS
            windows["stride_seconds"] = stride_seconds or windows["window_seconds"] / TIMELINE_STRIDES
        elif switch_penalty is not None:
            raise ValueError("switch_penalty goes with timeline=True.")
        if switch_penalty is not None and switch_penalty < 0:
            raise ValueError(f"switch_penalty must be at least 0, got {switch_penalty}.")
        if kept_patches and windows["window_seconds"]:
            raise ValueError("kept_patches goes with clips that are classified whole, not with windows.")
        asked = _given({"kept_patches": kept_patches or None})
        return _given(windows), asked, {**_given(given), **asked}

    def _threshold(self, abstain: bool | float) -> float:
        """The calibrated probability below which the pipeline abstains; 0 for never."""
        if not 0 <= abstain <= 1:
            raise ValueError(f"abstain must be True, False or a threshold in [0, 1], got {abstain}.")
        if abstain is not True:
            return float(abstain)
        if not self.model.config.abstention_threshold:
            raise ValueError("This model has no abstention threshold stored; give one, like abstain=0.5.")
        return self.model.config.abstention_threshold

    def preprocess(self, inputs: str | Path | dict[str, Any], **windows: Any) -> dict[str, Any]:
        """
        Turns a whole clip into tensors.

        Raises:
            UnusableMediaError: the file cannot be used, or has none of the model's modalities.
            ValueError: neither audio nor video is given, or settings of windows are given without `window_seconds`.
        """
        if windows:
            raise ValueError(f"{' and '.join(windows)} goes with window_seconds, which is not given.")
        return self._tensors(self._clip(inputs))

    def _clip(self, inputs: str | Path | dict[str, Any]) -> dict[str, Any]:
        """The model's modalities that the input has, as `audio` and `video`, and the rate of an array."""
        clip = self._file_modalities(inputs) if isinstance(inputs, str | Path) else inputs
        if not isinstance(clip, dict) or not clip.keys() <= {"audio", "video", "sampling_rate"}:
            raise ValueError("Give a file, or a dictionary with 'audio', 'video' and, for an array, 'sampling_rate'.")
        usable = {name: clip.get(name) for name in self.model.config.modalities if clip.get(name) is not None}
        if not usable:
            raise ValueError(f"The clip has none of what this model was built for: {self.model.config.modalities}.")
        return {**usable, "sampling_rate": clip.get("sampling_rate")}

    def _tensors(self, clip: dict[str, Any]) -> dict[str, Any]:
        return self.processor(
            audio=clip.get("audio"),
            videos=clip.get("video"),
            sampling_rate=clip.get("sampling_rate"),
            modalities=self.model.config.modalities,
        )

    def _file_modalities(self, path: str | Path) -> dict[str, str]:
        tracks = set(media_tracks(path)) - ({"video"} if self.model.config.visual_feature_size else set())
        found = {name: str(path) for name in self.model.config.modalities if name in tracks}
        if not found:
            raise UnusableMediaError(path, f"has none of {self.model.config.modalities}")
        return found

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify clips; see the class. `batch_size` clips go through the model together."""
        return super().__call__(inputs, **kwargs)

    def get_iterator(
        self, inputs: Iterable, num_workers: int, batch_size: int, preprocess_params: dict, *params: dict
    ) -> Iterable:
        """As in `Pipeline`, but recordings that are read by windows are processed one by one."""
        if "window_seconds" not in preprocess_params:
            return super().get_iterator(inputs, num_workers, batch_size, preprocess_params, *params)
        return (self.run_single(item, preprocess_params, *params) for item in inputs)

    def run_single(self, inputs: Any, preprocess_params: dict, forward_params: dict, postprocess_params: dict) -> Any:
        """Classifies one clip, whole or by windows; returns what the class describes."""
        if "window_seconds" not in preprocess_params:
            return super().run_single(inputs, preprocess_params, forward_params, postprocess_params)
        found = [
            (window, self.forward(tensors, **forward_params)["logits"])
            for window, tensors in self._windows(inputs, preprocess_params)
        ]
        mean = torch.cat([logits.float() for _, logits in found]).mean(dim=0, keepdim=True)
        labels = self.postprocess({"logits": mean}, **postprocess_params)
        if preprocess_params.get("timeline"):
            threshold = postprocess_params.get("threshold", 0.0)
            return {"labels": labels, **self._timeline(found, preprocess_params, threshold)}
        if not preprocess_params.get("return_timestamps"):
            return labels
        best = {**postprocess_params, "top_k": 1}
        listed = [
            {"start": window.start, "end": window.end, **self.postprocess({"logits": logits}, **best)[0]}
            for window, logits in found
        ]
        return {"labels": labels, "windows": listed}

    def _timeline(
        self, found: list[tuple[Window, torch.Tensor]], settings: dict[str, Any], threshold: float
    ) -> dict[str, Any]:
        """Segments and curve of windows with their logits `(1, C)`."""
        logits = torch.cat([logits.float() for _, logits in found]) / self.model.config.temperature
        return timeline_of(
            [window for window, _ in found],
            logits.log_softmax(dim=-1).double().numpy(),
            self.model.config.id2label,
            window_seconds=settings["window_seconds"],
            switch_penalty=settings.get("switch_penalty", SWITCH_PENALTY),
            threshold=threshold,
        )

    def _windows(self, inputs: Any, settings: dict[str, Any]) -> Iterator[tuple[Window, dict[str, Any]]]:
        """
        The windows of a recording as tensors.

        A window in which YuNet finds no face is classified by its sound, or left out without sound; a warning says how
        many there are.

        Raises:
            UnusableMediaError: the recording, or every window of it, cannot be used.
            ValueError: the window settings are invalid, or the model takes visual features, which have no times.
        """
        clip = self._clip(inputs)
        if self.model.config.visual_feature_size and "video" in clip:
            raise ValueError("window_seconds does not go with visual features, which have no times.")
        if "audio" in clip and not isinstance(clip["audio"], str | Path):
            clip["audio"] = self.processor.as_samples(clip["audio"], clip["sampling_rate"])
        length = settings["window_seconds"]
        stride = settings.get("stride_seconds", length)
        count = faceless = used = 0
        for window, given in clip_windows(self.processor, clip, length, stride):
            count += 1
            try:
                tensors = self._tensors(given)
            except NoFaceError:
                faceless += 1
                if "audio" not in given:
                    continue
                tensors = self._tensors({**given, "video": None})
            used += 1
            yield window, tensors
        name = next((clip[name] for name in ("video", "audio") if isinstance(clip.get(name), str | Path)), "array")
        if faceless:
            logger.warning("%s: YuNet finds no face in %d of %d windows.", name, faceless, count)
        if not used:
            raise UnusableMediaError(name, f"YuNet finds no face in any of its {count} windows")

    def _forward(self, model_inputs: dict[str, Any], kept_patches: bool = False) -> dict[str, Any]:
        output = self.model(**model_inputs)
        if not kept_patches:
            return {"logits": output.logits}
        found = {"logits": output.logits, "kept_patches": output.kept_patches}
        found |= {name: model_inputs.get(name) for name in ("pixel_values", "frame_mask")}
        return _given(found)

    def postprocess(
        self,
        model_outputs: dict[str, Any],
        top_k: int | None = None,
        threshold: float = 0.0,
        kept_patches: bool = False,
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Turns logits `(1, C)` into labels with calibrated scores that sum to 1 over all classes; see the class."""
        scores = (model_outputs["logits"][0].float() / self.model.config.temperature).softmax(dim=-1)
        best = scores.topk(min(top_k or len(scores), len(scores)))
        labels = self.model.config.id2label
        ranked = [
            {"label": labels[index], "score": score}
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        if ranked[0]["score"] < threshold:
            ranked = [{"label": ABSTAIN, "score": 1 - ranked[0]["score"]}, *ranked]
        return {"labels": ranked, **self._seen(model_outputs)} if kept_patches else ranked

    def _seen(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """The frames of one clip as the model sees them, and grids of their kept patches; `None` without pictures."""
        is_shown = outputs["frame_mask"][0].bool() if "pixel_values" in outputs else torch.zeros(1, dtype=torch.bool)
        if not is_shown.any():
            return {"frames": None, "kept_patches": None}
        frames = frames_seen(outputs["pixel_values"][0][is_shown], self.processor.image_processor)
        kept = outputs["kept_patches"][0][is_shown]
        grids = patch_grids(kept, frames.shape[1:3], self.model.config.vision_config.patch_size)
        return {"frames": frames, "kept_patches": grids}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


__all__ = ["AudioVisualEmotionRecognitionPipeline"]
