"""`pipeline("timed-speech-recognition", model=...)`: text with the times and confidence of its words."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchaudio.functional import resample
from transformers import Pipeline

from .alignment_speech_to_text import Word, characters_of, confidence, timed
from .recognition_speech_to_text import (
    SEARCH_FIELDS,
    Cutting,
    Recogniser,
    Search,
    abstention_threshold,
    check_settings,
    samples_per_frame,
)
from .sound_speech_to_text import DEFAULT_LIMITS, MediaLimits, resampled, sound_blocks

CUTTING_FIELDS = ("chunk_seconds", "overlap_seconds")
STREAM_CHUNK_SECONDS = 8.0
LOUDEST = 8.0
"""Peak of samples above which they are not in [-1, 1], even if a codec overshoots."""


@dataclass
class Sound:
    """
    A recording that has not been read yet, or its samples.

    Args:
        source: A file or its bytes, or `float32` samples at the model's rate.
        max_seconds: Longer recordings are refused; `None` accepts any length.
    """

    source: str | Path | bytes | np.ndarray
    max_seconds: float | None

    def blocks(self, rate: int, whole: bool) -> Iterable[np.ndarray]:
        """Samples `(samples,)` in blocks of a few seconds; files are decoded while they are read."""
        if isinstance(self.source, np.ndarray):
            return [self.source]
        limits = DEFAULT_LIMITS if self.max_seconds is None else MediaLimits(self.max_seconds)
        return sound_blocks(self.source, rate, limits, any_length=self.max_seconds is None and not whole)


@dataclass
class Recognised:
    """A recording's words. It is a class because a pipeline would turn a list of named tuples into plain tuples."""

    words: list[Word]


class TimedSpeechRecognitionPipeline(Pipeline):
    """
    Transcribes a recording, with the times and the confidence of its words.

    Inputs are a file that FFmpeg reads, or its bytes, mono samples `(samples,)` or `(channels, samples)` at the
    model's rate, or a dictionary of `array` (or `raw`) and `sampling_rate`; or a list or generator of them. They go
    through the model one after another, whatever `batch_size` is. `stream` takes sound while it is still being made.

    Args (of the call, or of `pipeline` as defaults):
        chunk_seconds: Longer recordings go through the model in chunks of this length, which overlap at silences
            (30). Files are decoded chunk by chunk, so that memory does not grow with their length. 0: each as a whole.
        overlap_seconds: Overlap of neighbouring chunks (2, or a quarter of chunks under 8 s).
        max_seconds: Longer files are refused; by default those over 300 s if `chunk_seconds` is 0, else none.
        decoder: `greedy` (default), or `beam`, which needs `pip install 'hf_fer[lm]'` and takes the next arguments.
        lm: A KenLM file (ARPA or binary), over words, as `hf-fer ngram` writes it, or over the model's tokens.
        lexicon: Words, or a file with one word per line; by default the words of an ARPA file over words.
        hotwords: Words to prefer, or a mapping of words to bonuses of the score (4; natural logarithm).
        beam_width, lm_weight, word_score: Settings of the search (64, 0.5, 0).
        return_timestamps: `word` or `char`; adds `chunks`, as in the stock pipeline.
        abstain: A confidence in [0, 1]; adds `abstain` to each word and to the result, `True` if theirs is lower. By
            default the threshold that training chose and stored with the model; 0 for none.

    Returns for each input a dictionary. With `greedy`, `text` is that of the stock `automatic-speech-recognition`.
    Each of `words` has `word`, `start` and `end` in seconds and `confidence`, the geometric mean of the probabilities
    of its tokens on the most probable alignment, at the temperature that was fitted on validation and is stored with
    the model. `confidence` of the result is the geometric mean over the words.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = True
    _load_tokenizer = True

    def __init__(self, *args: Any, **kwargs: Any):
        self.decoders: dict[Search, Any] = {}
        super().__init__(*args, **kwargs)
        check_settings(self.model)

    def _sanitize_parameters(self, **given: Any) -> tuple[dict, dict, dict]:
        stages = ("max_seconds",), (*CUTTING_FIELDS, *SEARCH_FIELDS), ("return_timestamps", "abstain")
        names = [name for stage in stages for name in stage]
        if unknown := sorted(set(given) - set(names)):
            raise TypeError(f"Unknown parameters {unknown}; this pipeline takes {', '.join(names)}.")
        if given.get("return_timestamps") not in (None, False, "word", "char"):
            raise ValueError(f"return_timestamps must be 'word' or 'char', got {given['return_timestamps']!r}.")
        if given.get("abstain") is not None and not 0 <= given["abstain"] <= 1:
            raise ValueError(f"abstain must be a confidence in [0, 1], got {given['abstain']}.")
        return tuple({name: given[name] for name in stage if given.get(name) is not None} for stage in stages)

    def preprocess(self, inputs: Any, max_seconds: float | None = None) -> dict[str, Any]:
        """
        Prepares a recording; a file is not read yet.

        Raises:
            ValueError: the input is of no accepted kind.
        """
        is_file = isinstance(inputs, str | Path | bytes)
        return {"sound": Sound(inputs if is_file else self.samples(inputs), max_seconds)}

    def samples(self, inputs: Any) -> np.ndarray:
        """Converts an array or a dictionary to mono samples at the model's rate, `float32 (samples,)`."""
        rate = wanted = self.feature_extractor.sampling_rate
        if isinstance(inputs, dict):
            if "sampling_rate" not in inputs or not {"array", "raw"} & inputs.keys():
                raise ValueError("Give a file, an array, or a dictionary with 'array' and 'sampling_rate'.")
            rate, inputs = inputs["sampling_rate"], inputs["array"] if "array" in inputs else inputs["raw"]
        samples = torch.as_tensor(inputs)
        if not samples.is_floating_point():
            raise ValueError(
                f"samples must be floating point in [-1, 1], got {samples.dtype}: divide by the type's range."
            )
        samples = samples.float()
        if samples.ndim == 2:  # the longer axis is time
            samples = samples.mean(dim=int(samples.shape[1] < samples.shape[0]))
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"samples must be (samples,) or (channels, samples), got {tuple(samples.shape)}.")
        if not samples.isfinite().all() or samples.abs().max() > LOUDEST:
            raise ValueError(f"samples must be finite and in [-1, 1], got a peak of {samples.abs().max():g}.")
        if isinstance(rate, bool | str) or not 0 < rate < float("inf") or rate != int(rate):
            raise ValueError(f"sampling_rate must be a positive whole number of Hz, got {rate!r}.")
        return (resample(samples, int(rate), wanted) if rate != wanted else samples).numpy()

    def _forward(self, model_inputs: dict[str, Any], **given: Any) -> dict[str, Any]:
        sounds = model_inputs["sound"]
        if isinstance(sounds, list):  # a batch of recordings
            return {"recognised": [self._recognised(sound, given) for sound in sounds]}
        return {"recognised": self._recognised(sounds, given)}

    def _recognised(self, sound: Sound, given: dict[str, Any]) -> Recognised:
        recogniser = self.recogniser(given)
        blocks = sound.blocks(recogniser.rate, whole=not recogniser.cutting.chunk_seconds)
        return Recognised([word for words in recogniser.recognise(blocks) for word in words])

    def recogniser(self, given: dict[str, Any]) -> Recogniser:
        """
        A recogniser with the pipeline's model.

        Args:
            given: Values of `Cutting` and `Search` by name.

        Raises:
            ImportError: the beam search's libraries are not installed.
            FileNotFoundError: the language model or the lexicon does not exist.
            ValueError: the values do not go together.
        """
        search = Search.of({name: given[name] for name in SEARCH_FIELDS if name in given})
        cutting = Cutting(**{name: given[name] for name in CUTTING_FIELDS if name in given})
        if search not in self.decoders:
            self.decoders = {search: search.decode(self.model, self.tokenizer)}
        rate, step = self.feature_extractor.sampling_rate, samples_per_frame(self.model, self.feature_extractor)
        return Recogniser(self.frames, self.decoders[search], self.model, self.tokenizer, rate, step, cutting)

    def frames(self, samples: np.ndarray) -> np.ndarray:
        """The model's natural log-probabilities `(frames, vocabulary)` of samples `(samples,)` at its rate."""
        rate = self.feature_extractor.sampling_rate
        features = self.feature_extractor(samples, sampling_rate=rate, return_attention_mask=True, return_tensors="pt")
        inputs = {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in features.items()
        }
        with torch.inference_mode():
            logits = self.model(**inputs).logits[0]
        return torch.log_softmax(logits.float(), dim=-1).cpu().numpy()

    def postprocess(
        self, model_outputs: dict[str, Any], return_timestamps: str | None = None, abstain: float | None = None
    ) -> dict[str, Any]:
        """Turns words into the dictionary that the class describes."""
        words = model_outputs["recognised"].words
        step = samples_per_frame(self.model, self.feature_extractor) / self.feature_extractor.sampling_rate
        answer = {
            "text": " ".join(word.text for word in words),
            "words": timed(words, step),
            "confidence": confidence(words),
        }
        abstain = abstention_threshold(self.model) if abstain is None else abstain
        if abstain:
            for found in (*answer["words"], answer):
                found["abstain"] = found["confidence"] < abstain
        if return_timestamps:
            parts = words
            if return_timestamps == "char":
                parts = [character for word in words for character in characters_of(word, self.tokenizer)]
            answer["chunks"] = [
                {"text": part["word"], "timestamp": (part["start"], part["end"])} for part in timed(parts, step)
            ]
        return answer

    def stream(
        self, blocks: Iterable[np.ndarray], *, sampling_rate: int | None = None, **given: Any
    ) -> Iterator[dict[str, Any]]:
        """
        Transcribes sound while it is recorded, such as from a microphone.

        Args:
            blocks: Mono samples `(samples,)`, floating point in [-1, 1], in blocks of any lengths.
            sampling_rate: Rate of the samples in Hz; the model's if `None`.
            given: Arguments of a call. `chunk_seconds` is 8 by default: words come when their chunk is complete.

        Yields:
            Results of a call, each of which extends the text and the words of the one before, and `final`, `True` in
            the last. The last equals the result of a call with the same `chunk_seconds` for the whole sound.
        """
        _, forward, after = self._sanitize_parameters(**given)
        defaults = {"chunk_seconds": STREAM_CHUNK_SECONDS}
        recogniser = self.recogniser({**defaults, **self._forward_params, **forward})
        after = {**self._postprocess_params, **after}
        samples = resampled(map(self._block, blocks), sampling_rate or recogniser.rate, recogniser.rate)
        words: list[Word] = []
        for found in recogniser.recognise(samples):
            words += found
            if found:
                yield {**self.postprocess({"recognised": Recognised(words)}, **after), "final": False}
        yield {**self.postprocess({"recognised": Recognised(words)}, **after), "final": True}

    @staticmethod
    def _block(block: Any) -> np.ndarray:
        samples = np.asarray(block)
        if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
            raise ValueError(
                f"a block must be floating point samples (samples,), got {samples.dtype} {samples.shape}."
            )
        return samples.astype(np.float32)


__all__ = ["TimedSpeechRecognitionPipeline"]
