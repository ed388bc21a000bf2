"""Converts arrays and tensors of any framework into the samples and frames that the processor works on."""

from typing import Any

import librosa
import numpy as np
from transformers.utils import logging

from .limits_multimodal_fer import MediaLimits

logger = logging.get_logger(__name__)

LOUDEST = 8.0
"""Peak of floating point samples above which they are not in [-1, 1], even if a codec overshoots."""


def as_numpy(value: Any) -> np.ndarray:
    """A NumPy array, from a tensor of any framework, on any device, with or without a gradient."""
    if hasattr(value, "detach"):
        tensor = value.detach().cpu()
        value = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
    return np.asarray(value)


def as_samples(
    audio: Any, sampling_rate: int | None, wanted_rate: int, limits: MediaLimits | None = None
) -> np.ndarray:
    """
    Convert an array of sound to mono samples at the wanted rate.

    Args:
        audio: `(samples,)`, `(channels, samples)` or `(samples, channels)`; floats in [-1, 1], or integers, which are
            divided by their type's range (unsigned ones are centred first). Or a dictionary of `array` and
            `sampling_rate`, as in the `datasets` library.
        sampling_rate: Rate of the array in Hz; if not given, the wanted rate is assumed, with a warning.
        limits: `max_seconds` of the array, checked before it is resampled; any length if not given.

    Returns:
        `float32 (samples,)`.

    Raises:
        ValueError: the shape or type is another, floats are far outside [-1, 1], the array lasts too long, or the rate
            is not positive or given twice with different values.
    """
    if isinstance(audio, dict):
        if not {"array", "sampling_rate"} <= audio.keys():
            raise ValueError(f"Audio dictionaries have 'array' and 'sampling_rate', got {sorted(audio)}.")
        if sampling_rate not in (None, audio["sampling_rate"]):
            raise ValueError(f"sampling_rate={sampling_rate}, but the audio says {audio['sampling_rate']} Hz.")
        audio, sampling_rate = audio["array"], audio["sampling_rate"]
    if sampling_rate is None:
        warn_of_no_rate(wanted_rate)
    rate = wanted_rate if sampling_rate is None else sampling_rate
    if isinstance(rate, bool | str) or not 0 < rate < np.inf or rate != int(rate):
        raise ValueError(f"sampling_rate must be a positive whole number of Hz, got {rate!r}.")
    samples = _mono(scaled_samples(as_numpy(audio)))
    too_long = limits and limits.too_long(len(samples) / rate)
    if too_long:
        raise ValueError(f"audio: {too_long}.")
    return samples if rate == wanted_rate else resample(samples, int(rate), wanted_rate)


def warn_of_no_rate(taken: int) -> None:
    """Warn, once per process, that an array came without its rate and which one is assumed."""
    logger.warning_once(
        f"An array of sound came without its sampling_rate: {taken} Hz is assumed. Give sampling_rate to be sure."
    )


def scaled_samples(samples: np.ndarray) -> np.ndarray:
    """
    Samples as `float32` in [-1, 1], of the same shape; integers are divided by their type's range.

    Raises:
        ValueError: samples are neither floats nor integers of up to 32 bits, or floats are far outside [-1, 1].
    """
    kind = samples.dtype.kind
    if kind not in "iuf":
        raise ValueError(f"Audio arrays are of floats or integers, got {samples.dtype}.")
    if kind == "f":
        peak = np.abs(samples[np.isfinite(samples)]).max(initial=0)
        if peak > LOUDEST:
            raise ValueError(
                f"Audio arrays of floats are in [-1, 1], got a peak of {peak:g}: give the integers, or "
                "divide by their range."
            )
        return samples.astype(np.float32)
    if samples.dtype.itemsize > 4:  # Python's own integers become these, whatever they were
        raise ValueError(
            f"Audio arrays of {samples.dtype} do not tell the range of their samples: give int16 or int32, or divide "
            "by the range."
        )
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    return ((samples.astype(np.float64) - (half if kind == "u" else 0)) / half).astype(np.float32)


def _mono(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 2:
        samples = samples.mean(axis=int(samples.shape[1] < samples.shape[0]))
    if samples.ndim != 1:
        raise ValueError(f"Audio arrays are (samples,) or (channels, samples), got shape {samples.shape}.")
    return samples


def resample(samples: np.ndarray, rate: int, wanted_rate: int) -> np.ndarray:
    """Mono samples `(samples,)` at another rate, band-limited."""
    if not np.isfinite(samples).all():
        raise ValueError("Audio samples are not finite (NaN or infinity).")
    return librosa.resample(samples, orig_sr=rate, target_sr=wanted_rate, res_type="polyphase").astype(np.float32)


def as_frames(video: Any) -> np.ndarray:
    """
    Check and convert frames given as an array: `uint8` RGB `(frames, height, width, 3)`.

    Raises:
        ValueError: the type or shape is another, or there are no frames.
    """
    frames = as_numpy(video)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"Video arrays are uint8 (frames, height, width, 3), got {frames.dtype} of shape {frames.shape}."
        )
    return frames


__all__ = ["as_frames", "as_numpy", "as_samples", "scaled_samples", "warn_of_no_rate"]
