"""`pipeline("audio-visual-emotion-recognition", model=...)`."""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import Pipeline

from .decoding_multimodal_fer import UnusableMediaError, open_media


class AudioVisualEmotionRecognitionPipeline(Pipeline):
    """
    Emotion of a clip, from its sound, its pictures or both.

    Inputs are a file (video, or sound alone), or a dictionary with `audio` (a file, or mono samples at the
    processor's rate) and `video` (a file, or `uint8` RGB frames `(frames, height, width, 3)`), either of which may
    be missing; or a list or generator of them.

    Returns for each input a list of `{"label", "score"}`, best first, at most `top_k` of them.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def _sanitize_parameters(self, top_k: int | None = None, **kwargs: Any) -> tuple[dict, dict, dict]:
        if kwargs:
            raise TypeError(f"Unknown parameters {sorted(kwargs)}; this pipeline takes top_k and batch_size.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        return {}, {}, {} if top_k is None else {"top_k": top_k}

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
        audio_rate = clip.get("sampling_rate") if isinstance(usable.get("audio"), np.ndarray) else None
        return self.processor(
            audio=usable.get("audio"),
            videos=usable.get("video"),
            sampling_rate=audio_rate,
            modalities=self.model.config.modalities,
        )

    def _file_modalities(self, path: str | Path) -> dict[str, str]:
        with open_media(path) as container:
            streams = {"audio": container.streams.audio, "video": container.streams.video}
        found = {name: str(path) for name in self.model.config.modalities if streams[name]}
        if not found:
            raise UnusableMediaError(path, f"has none of {self.model.config.modalities}")
        return found

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify clips; see the class. `batch_size` clips go through the model together."""
        return super().__call__(inputs, **kwargs)

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        return {"logits": self.model(**model_inputs).logits}

    def postprocess(self, model_outputs: dict[str, Any], top_k: int | None = None) -> list[dict[str, Any]]:
        """Logits `(1, C)` to labels with scores that sum to 1 over all classes."""
        scores = model_outputs["logits"][0].float().softmax(dim=-1)
        best = scores.topk(min(top_k or len(scores), len(scores)))
        labels = self.model.config.id2label
        return [
            {"label": labels[index], "score": score}
            for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


__all__ = ["AudioVisualEmotionRecognitionPipeline"]
