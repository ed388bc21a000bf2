"""`pipeline("timed-speech-recognition", model=...)`: text with the times and confidence of its words."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchaudio.functional import resample
from transformers import Pipeline

from .alignment_speech_to_text import blank_id, timed, transcribe
from .sound_speech_to_text import DEFAULT_LIMITS, MediaLimits, load_audio


class TimedSpeechRecognitionPipeline(Pipeline):
    """
    What is said in a recording, and when.

    Inputs are a file that FFmpeg reads, mono samples `(samples,)` or `(channels, samples)` at the model's rate, or a
    dictionary of `array` (or `raw`) and `sampling_rate`; or a list or generator of them.

    Args (of the call, or of `pipeline` as defaults):
        max_seconds: Longer files are refused, because a recording goes through the model as a whole (300).

    Returns for each input `text`, the same as the stock `automatic-speech-recognition`, `words`, each with `word`,
    `start` and `end` in seconds and `confidence`, and `confidence`, the geometric mean over the words. A confidence is
    the probability of the best path and is not calibrated.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = True

    def _sanitize_parameters(self, max_seconds: float | None = None, **kwargs: Any) -> tuple[dict, dict, dict]:
        if kwargs:
            raise TypeError(f"Unknown parameters {sorted(kwargs)}; this pipeline takes max_seconds.")
        return {} if max_seconds is None else {"max_seconds": max_seconds}, {}, {}

    def preprocess(self, inputs: Any, max_seconds: float = DEFAULT_LIMITS.max_seconds) -> dict[str, Any]:
        """
        One recording to tensors.

        Raises:
            UnusableMediaError: the file cannot be used.
            ValueError: it is none of the kinds of input.
        """
        samples = self.samples(inputs, max_seconds)
        features = self.feature_extractor(
            samples,
            sampling_rate=self.feature_extractor.sampling_rate,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {**features, "seconds": len(samples) / self.feature_extractor.sampling_rate}

    def samples(self, inputs: Any, max_seconds: float) -> np.ndarray:
        """Mono samples at the model's rate, `float32 (samples,)`; of a file, `max_seconds` at most."""
        rate = wanted = self.feature_extractor.sampling_rate
        if isinstance(inputs, str | Path):
            return load_audio(inputs, wanted, MediaLimits(max_seconds))
        if isinstance(inputs, dict):
            if "sampling_rate" not in inputs or not {"array", "raw"} & inputs.keys():
                raise ValueError("Give a file, an array, or a dictionary with 'array' and 'sampling_rate'.")
            rate, inputs = inputs["sampling_rate"], inputs["array"] if "array" in inputs else inputs["raw"]
        samples = torch.as_tensor(inputs)
        if not samples.is_floating_point():
            raise ValueError(f"samples must be floating point in [-1, 1], got {samples.dtype}: divide by the largest.")
        samples = samples.float()
        if samples.ndim == 2:
            samples = samples.mean(dim=0)
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"samples must be (samples,) or (channels, samples), got {tuple(samples.shape)}.")
        return (resample(samples, rate, wanted) if rate != wanted else samples).numpy()

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        seconds = model_inputs.pop("seconds")
        inputs = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value
            for name, value in model_inputs.items()
        }
        return {"logits": self.model(**inputs).logits, "seconds": seconds}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, Any]:
        """Logits `(1, frames, vocabulary)` to text and words."""
        logits = model_outputs["logits"][0]
        text, words = transcribe(logits, self.tokenizer, blank_id(self.model))
        ratio = getattr(self.model.config, "inputs_to_logits_ratio", None)
        rate = self.feature_extractor.sampling_rate
        step = ratio / rate if ratio else model_outputs["seconds"] / max(len(logits), 1)
        scores = [word.score for word in words]
        return {
            "text": text,
            "words": timed(words, step),
            "confidence": float(np.exp(np.mean(scores))) if scores else 0.0,
        }


__all__ = ["TimedSpeechRecognitionPipeline"]
