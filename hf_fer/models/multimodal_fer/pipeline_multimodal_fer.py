"""`pipeline("audio-visual-emotion-recognition", model=...)`."""

from pathlib import Path
from typing import Any

from transformers import Pipeline

from .decoding_multimodal_fer import UnusableMediaError, media_tracks

ABSTAIN = "abstain"


class AudioVisualEmotionRecognitionPipeline(Pipeline):
    """
    Emotion of a clip, from its sound, its pictures or both.

    Inputs are a file (video, or sound alone), or a dictionary with `audio` (a file, or an array or tensor of samples,
    with its rate as `sampling_rate` where that is not the processor's) and `video` (a file, or `uint8` RGB frames
    `(frames, height, width, 3)`), either of which may be missing; or a list or generator of them. For a model of
    visual features, `video` is an array of them or a `.npy` file, and a media file on its own gives its sound only.

    Args (of the call, or of `pipeline` as defaults):
        top_k: How many labels to return; all if not given.
        abstain: `True` abstains where the best score is below the threshold that was fitted on validation and is
            stored with the model; a number in [0, 1] is a threshold of your own.
        batch_size: Clips that go through the model together.

    Returns for each input a list of `{"label", "score"}`, best first, at most `top_k` of them. Scores are calibrated:
    the softmax of the logits divided by the model's temperature. Where the pipeline abstains, `{"label": "abstain"}`
    comes first, with the probability that the best label is wrong as its `score`, and the labels follow.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.tokenizer = None  # batches are not padded by one

    def _sanitize_parameters(
        self, top_k: int | None = None, abstain: bool | float | None = None, **kwargs: Any
    ) -> tuple[dict, dict, dict]:
        if kwargs:
            raise TypeError(f"Unknown parameters {sorted(kwargs)}; this pipeline takes top_k, abstain and batch_size.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        given = {"top_k": top_k, "threshold": None if abstain is None else self._threshold(abstain)}
        return {}, {}, {name: value for name, value in given.items() if value is not None}

    def _threshold(self, abstain: bool | float) -> float:
        """The calibrated probability below which to abstain; 0 for never."""
        if not 0 <= abstain <= 1:
            raise ValueError(f"abstain must be True, False or a threshold in [0, 1], got {abstain}.")
        if abstain is not True:
            return float(abstain)
        if not self.model.config.abstention_threshold:
            raise ValueError("This model has no abstention threshold stored; give one, like abstain=0.5.")
        return self.model.config.abstention_threshold

    def preprocess(self, inputs: str | Path | dict[str, Any]) -> dict[str, Any]:
        """
        One clip to tensors.

        Raises:
            UnusableMediaError: the file cannot be used, or has nothing that the model can use.
            ValueError: neither audio nor video is given.
        """
        clip = self._file_modalities(inputs) if isinstance(inputs, str | Path) else inputs
        if not isinstance(clip, dict) or not clip.keys() <= {"audio", "video", "sampling_rate"}:
            raise ValueError("Give a file, or a dictionary with 'audio', 'video' and, for an array, 'sampling_rate'.")
        usable = {name: clip.get(name) for name in self.model.config.modalities if clip.get(name) is not None}
        if not usable:
            raise ValueError(f"The clip has none of what this model was built for: {self.model.config.modalities}.")
        return self.processor(
            audio=usable.get("audio"),
            videos=usable.get("video"),
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

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        return {"logits": self.model(**model_inputs).logits}

    def postprocess(
        self, model_outputs: dict[str, Any], top_k: int | None = None, threshold: float = 0.0
    ) -> list[dict[str, Any]]:
        """Logits `(1, C)` to labels with calibrated scores that sum to 1 over all classes."""
        scores = (model_outputs["logits"][0].float() / self.model.config.temperature).softmax(dim=-1)
        best = scores.topk(min(top_k or len(scores), len(scores)))
        labels = self.model.config.id2label
        ranked = [
            {"label": labels[index], "score": score}
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        unsure = ranked[0]["score"] < threshold
        return [{"label": ABSTAIN, "score": 1 - ranked[0]["score"]}, *ranked] if unsure else ranked


__all__ = ["AudioVisualEmotionRecognitionPipeline"]
