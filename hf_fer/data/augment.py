"""Training-time augmentation that is random by (seed, epoch, index) only.

The number of workers, the number of processes and resuming a run therefore do not change it.
"""

import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import audiomentations
import numpy as np
import torch
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from torch import Tensor
from torchvision.transforms import v2
from transformers.audio_utils import hertz_to_mel, mel_to_hertz

from hf_fer.recipe.arguments import RecipeError

GREY = 128
EQUALIZER_HERTZ = 60.0
"""Middle of the equaliser's lowest band; that of its highest is half the sampling rate."""


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch from `entropy`, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class EpochClock:
    """The current epoch in shared memory, so that persistent data loader workers see it change."""

    def __init__(self):
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._epoch.fill_(value)


class Strengths:
    """
    Base class of augmentation settings, which must be numbers of at least 0.

    Raises:
        RecipeError: a setting is no number, negative, or over its limit in `MOST`.
    """

    MOST: ClassVar[dict[str, float]] = {}

    def __post_init__(self):
        for field in dataclasses.fields(self):
            name, value, pair = field.name, getattr(self, field.name), isinstance(field.default, tuple)
            numbers = value if pair and isinstance(value, list | tuple) else [value]
            kind = int if isinstance(field.default, int) else int | float
            if len(numbers) != 1 + pair or not all(isinstance(n, kind) and not isinstance(n, bool) for n in numbers):
                wanted = "two numbers" if pair else "a whole number" if kind is int else "a number"
                raise RecipeError(f"augmentation {name} must be {wanted}, got {value!r}.")
            if not min(numbers) >= 0:
                raise RecipeError(f"augmentation {name} must not be negative, got {value}.")
            if not max(numbers) <= self.MOST.get(name, max(numbers)):
                raise RecipeError(f"augmentation {name} must be at most {self.MOST[name]:g}, got {value}.")
            if list(numbers) != sorted(numbers):
                raise RecipeError(f"augmentation {name} must be a smallest and a largest number, got {value}.")


@dataclass(frozen=True)
class Augmentation(Strengths):
    """
    Strengths of the augmentations; 0 turns one off.

    Args:
        gain_db: Largest change of loudness in dB, up or down.
        noise_probability: Probability of adding white noise, with a signal-to-noise ratio from `noise_snr_db`.
        noise_snr_db: Smallest and largest signal-to-noise ratio in dB.
        shift_fraction: Largest shift in time as a fraction of the clip; samples do not wrap around.
        stretch: Largest change of tempo with unchanged pitch (0.1 is 90% to 110%).
        pitch_semitones: Largest change of pitch with unchanged tempo.
        resample: Largest change of speed, which changes tempo and pitch together.
        equalizer_db: Largest change of loudness of each of seven bands in dB, as by another microphone or room.
        silence_seconds: Longest silence added before the clip, and after it; noise is added to the silence, too.
        audio_probability: Probability of each of gain, silence, shift, stretch, pitch, resample and equalizer.
        vocal_tract: Largest relative change of the length of the vocal tract (VTLP, Jaitly and Hinton 2013), which
            moves formants but neither pitch nor tempo.
        frequency_masks, frequency_mask_bins: SpecAugment (arXiv 1904.08779): number and largest height in mel bins.
        time_masks, time_mask_fraction: SpecAugment: number and largest width as a fraction of the clip.
        flip_probability: Probability of mirroring a clip left to right.
        color: Largest relative change of brightness, contrast and saturation.
        crop_fraction: Largest fraction of the frame's area that a random crop removes; all frames share one box.
        rotation_degrees: Largest angle by which a clip is turned, to either side; corners become black.
        erase_probability: Probability of random erasing (arXiv 1708.04896): a grey box over 2 to 20% of the frame.
        feature_noise: Gaussian noise on visual features, in standard deviations of the training split.
        feature_dropout: Probability with which a visual feature of a clip is replaced by its training mean.
    """

    MOST: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("noise_probability", "audio_probability", "flip_probability", "erase_probability"), 1),
        **dict.fromkeys(("feature_dropout", "shift_fraction", "time_mask_fraction"), 1),
        # Lengths of time, rates, warps and crops would reach 0.
        **dict.fromkeys(("stretch", "resample", "vocal_tract", "crop_fraction"), 0.9),
        "pitch_semitones": 24,
    }

    gain_db: float = 6.0
    noise_probability: float = 0.3
    noise_snr_db: tuple[float, float] = (15.0, 40.0)
    shift_fraction: float = 0.1
    stretch: float = 0.1
    pitch_semitones: float = 0.0
    resample: float = 0.0
    equalizer_db: float = 0.0
    silence_seconds: float = 0.0
    audio_probability: float = 0.5
    vocal_tract: float = 0.0
    frequency_masks: int = 2
    frequency_mask_bins: int = 12
    time_masks: int = 2
    time_mask_fraction: float = 0.1
    flip_probability: float = 0.5
    color: float = 0.2
    crop_fraction: float = 0.2
    rotation_degrees: float = 0.0
    erase_probability: float = 0.0
    feature_noise: float = 0.1
    feature_dropout: float = 0.1


class AudioAugmenter:
    """
    Applies the audio augmentations of an `Augmentation`; call it inside `seeded`.

    Args:
        augmentation: Strengths.
        sampling_rate: Sampling rate in Hz.
        mel_hertz: Frequency of each mel bin, for `vocal_tract`; Slaney's from 0 Hz to half the rate if `None`.
    """

    def __init__(self, augmentation: Augmentation, sampling_rate: int, mel_hertz: np.ndarray | None = None):
        self.augmentation = augmentation
        self.sampling_rate = sampling_rate
        self.mel_hertz = mel_hertz

    @cached_property
    def _waveform(self) -> audiomentations.Compose:
        a, p = self.augmentation, self.augmentation.audio_probability
        steps = []
        if a.resample:
            rates = [round(self.sampling_rate * factor) for factor in (1 - a.resample, 1 + a.resample)]
            steps.append(audiomentations.Resample(*rates, p=p))
        if a.stretch:
            steps.append(audiomentations.TimeStretch(1 - a.stretch, 1 + a.stretch, leave_length_unchanged=False, p=p))
        if a.pitch_semitones:
            steps.append(audiomentations.PitchShift(-a.pitch_semitones, a.pitch_semitones, p=p))
        if a.shift_fraction:
            steps.append(audiomentations.Shift(-a.shift_fraction, a.shift_fraction, rollover=False, p=p))
        if a.gain_db:
            steps.append(audiomentations.Gain(-a.gain_db, a.gain_db, p=p))
        if a.noise_probability:
            low, high = a.noise_snr_db
            steps.append(audiomentations.AddGaussianSNR(low, high, p=a.noise_probability))
        return audiomentations.Compose(steps)

    def waveform(self, samples: np.ndarray) -> np.ndarray:
        """Mono `float32` samples -> samples, possibly of another length."""
        samples = self._equalized(self._in_silence(samples))
        if not self._waveform.transforms or not len(samples):
            return samples
        return self._waveform(samples=np.ascontiguousarray(samples), sample_rate=self.sampling_rate)

    def _in_silence(self, samples: np.ndarray) -> np.ndarray:
        a = self.augmentation
        if not a.silence_seconds or random.random() >= a.audio_probability:
            return samples
        longest = round(a.silence_seconds * self.sampling_rate)
        return np.pad(samples, (random.randint(0, longest), random.randint(0, longest)))

    def _equalized(self, samples: np.ndarray) -> np.ndarray:
        """Not by audiomentations: its filters are unstable where a band lies above half the sampling rate."""
        a = self.augmentation
        if not a.equalizer_db or random.random() >= a.audio_probability:
            return samples
        size = next_fast_len(len(samples), real=True)
        bands = np.geomspace(EQUALIZER_HERTZ, self.sampling_rate / 2, 7)
        gains = [random.uniform(-a.equalizer_db, a.equalizer_db) for _ in bands]
        hertz = np.maximum(rfftfreq(size, 1 / self.sampling_rate), EQUALIZER_HERTZ)
        decibels = np.interp(np.log(hertz), np.log(bands), gains)
        equalized = irfft(rfft(samples, size) * 10 ** (decibels / 20), size)
        return equalized[: len(samples)].astype(np.float32)

    def features(self, log_mel: Tensor) -> Tensor:
        """Log-mel features `(mel_frames, mel_bins)` with VTLP and SpecAugment masks, filled with the clip's mean."""
        a = self.augmentation
        if a.vocal_tract:
            hertz = self.mel_hertz
            hertz = slaney_hertz(log_mel.shape[1], self.sampling_rate) if hertz is None else hertz
            log_mel = warped(log_mel, 1 + random.uniform(-a.vocal_tract, a.vocal_tract), hertz)
        fill, masked = float(log_mel.mean()), log_mel.clone()
        for _ in range(a.frequency_masks):
            masked[:, _place(a.frequency_mask_bins, masked.shape[1])] = fill
        for _ in range(a.time_masks):
            masked[_place(int(a.time_mask_fraction * len(masked)), len(masked))] = fill
        return masked


def _place(widest: int, length: int) -> slice:
    """Draw a mask's place as torchaudio's `mask_along_axis` does, which is slow because it masks with tensors."""
    if widest < 1:
        return slice(0, 0)
    share, shift = torch.rand(2).tolist()
    width = share * min(widest, length)
    start = int(shift * (length - width))
    return slice(start, start + int(width))


def slaney_hertz(bins: int, sampling_rate: int) -> np.ndarray:
    """Frequencies in Hz of Slaney's mel bins from 0 Hz to half the sampling rate, `(bins,)`."""
    return mel_to_hertz(np.linspace(0.0, hertz_to_mel(sampling_rate / 2, "slaney"), bins + 2)[1:-1], "slaney")


def warped(log_mel: Tensor, factor: float, hertz: np.ndarray) -> Tensor:
    """
    Multiply every frequency of log-mel features by `factor`, as a shorter vocal tract does.

    Args:
        log_mel: Log-mel features, `(mel_frames, mel_bins)`.
        factor: Above 1 for a shorter vocal tract. Beyond the last bin, its value is repeated.
        hertz: Frequency of each bin in Hz, `(mel_bins,)`.
    """
    bins = log_mel.shape[1]
    places = np.interp(hertz / factor, hertz, np.arange(bins))
    low = torch.from_numpy(places.astype(np.int64)).clamp(max=max(bins - 2, 0))
    share = torch.from_numpy(places).to(log_mel.dtype) - low
    return torch.lerp(log_mel[:, low], log_mel[:, (low + 1).clamp(max=bins - 1)], share)


class VideoAugmenter:
    """Applies the video augmentations of an `Augmentation` alike to all frames of a clip; call it inside `seeded`."""

    def __init__(self, augmentation: Augmentation):
        a = augmentation
        steps = []
        if a.flip_probability:
            steps.append(v2.RandomHorizontalFlip(a.flip_probability))
        if a.color:
            steps.append(v2.ColorJitter(a.color, a.color, a.color))
        if a.rotation_degrees:
            steps.append(v2.RandomRotation(a.rotation_degrees, v2.InterpolationMode.BILINEAR))
        self._steps = steps
        # Draws random numbers even at a probability of 0, which would change what is drawn after it.
        self._erase = v2.RandomErasing(a.erase_probability, (0.02, 0.2), value=GREY) if a.erase_probability else None
        self._crop_fraction = a.crop_fraction
        self._feature_noise = a.feature_noise
        self._feature_dropout = a.feature_dropout

    def __call__(self, frames: Tensor) -> Tensor:
        """`uint8 (frames, 3, height, width)` -> the same, smaller if cropped."""
        for step in self._steps:
            frames = step(frames)
        if self._crop_fraction:
            top, left, height, width = v2.RandomResizedCrop.get_params(
                frames, scale=[1 - self._crop_fraction, 1.0], ratio=[0.9, 1.1]
            )
            frames = frames[..., top : top + height, left : left + width]
        return self._erase(frames) if self._erase else frames

    def features(self, features: Tensor) -> Tensor:
        """Add noise to standardised features `(frames, tokens, dim)` and zero some dimensions in every frame."""
        features = features + self._feature_noise * torch.randn_like(features)
        return features * (torch.rand(features.shape[-1]) >= self._feature_dropout)
