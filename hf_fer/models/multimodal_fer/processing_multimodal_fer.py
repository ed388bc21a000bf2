"""Turns files or arrays into the tensors of the audio-visual emotion model."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import librosa
import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ParakeetFeatureExtractor, ProcessorMixin
from transformers.models.parakeet.feature_extraction_parakeet import EPSILON

from .arrays_multimodal_fer import as_frames, as_numpy, as_samples, scaled_samples, warn_of_no_rate
from .decoding_multimodal_fer import (
    UnusableMediaError,
    is_feature_reference,
    load_audio,
    load_video,
    load_visual_features,
)
from .face_multimodal_fer import FACE_CROPS, NoFaceError, face_cropper
from .limits_multimodal_fer import DEFAULT_LIMITS, MediaLimits

NORMALIZATIONS = ("utterance", "global")

TRIM_MARGIN = 0.05
"""Seconds kept before and after the sound that is louder than the threshold."""

AudioInput = str | Path | np.ndarray | Tensor | dict[str, Any]
VideoInput = str | Path | np.ndarray | Tensor


class MultimodalFerFeatureExtractor(ParakeetFeatureExtractor):
    r"""
    Parakeet's log-mel features, with a choice of normalisation.

    Args:
        normalize (`str`, *optional*, defaults to `"global"`):
            `"global"` subtracts `mean` and divides by `std`, the same for every clip and mel bin, so loudness and
            spectral tilt, which carry emotion, survive. `"utterance"` normalises each mel bin over each clip, as
            pretrained Parakeet encoders expect.
        mean, std (`float`, *optional*):
            Constants of the global normalisation, in natural-log mel power; the defaults are RAVDESS's.
        trim_db (`float`, *optional*):
            Cut both ends of the clip up to the first and from the last frame that is louder than its peak minus this
            many dB, with a margin of 50 ms. `None` keeps the whole clip.
        preemphasis (`float`, *optional*):
            Coefficient of the preemphasis; Parakeet's is 0.97, `None` for none.
        kwargs: Arguments of [`~transformers.ParakeetFeatureExtractor`].

    Raises:
        ValueError: the normalisation is unknown.
    """

    def __init__(
        self,
        normalize: str = "global",
        mean: float = -11.5,
        std: float = 3.85,
        trim_db: float | None = None,
        preemphasis: float | None = None,
        **kwargs,
    ):
        super().__init__(preemphasis=preemphasis, **kwargs)
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize must be one of {NORMALIZATIONS}, got {normalize!r}.")
        if not std > 0:
            raise ValueError(f"std must be positive, got {std}.")
        self.normalize = normalize
        self.mean = mean
        self.std = std
        self.trim_db = trim_db

    def trim(self, samples: np.ndarray) -> np.ndarray:
        """Mono samples without silence at both ends; unchanged if `trim_db` is `None` or all is silence."""
        if self.trim_db is None or not np.any(samples):
            return samples
        _, (start, stop) = librosa.effects.trim(
            samples, top_db=self.trim_db, frame_length=self.n_fft, hop_length=self.hop_length
        )
        margin = round(TRIM_MARGIN * self.sampling_rate)
        return samples[max(start - margin, 0) : stop + margin]

    def log_mel(self, samples: np.ndarray) -> Tensor:
        """
        Normalised log-mel features of one clip: mono samples `(samples,)` -> `(mel_frames, mel_bins)`.

        Raises:
            ValueError: the samples are empty, not mono or not finite.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1 or not len(samples):
            raise ValueError(f"Expected mono samples of shape (samples,), got {samples.shape}.")
        if not np.isfinite(samples).all():
            raise ValueError("Audio samples are not finite (NaN or infinity).")
        waveform = torch.from_numpy(samples.copy())
        if self.preemphasis is not None:
            waveform = torch.cat([waveform[:1], waveform[1:] - self.preemphasis * waveform[:-1]])
        frames = max(len(waveform) // self.hop_length, 1)
        features = self._torch_extract_fbank_features(waveform[None])[0, :frames]
        if self.normalize == "global":
            return (features - self.mean) / self.std
        std = features.std(dim=0) if frames > 1 else torch.ones(features.shape[1])
        return (features - features.mean(dim=0)) / (std + EPSILON)

    def __call__(
        self, raw_speech: np.ndarray | Sequence[np.ndarray], sampling_rate: int | None = None, **kwargs: Any
    ) -> BatchFeature:
        """
        Features of one clip or several, padded with zeros.

        Args:
            raw_speech: Mono samples `(samples,)`, or a list of them.
            sampling_rate: Rate of the samples in Hz; checked if given.

        Returns:
            `input_features (batch, mel_frames, mel_bins)` and `attention_mask (batch, mel_frames)`.

        Raises:
            ValueError: the rate is another, or the samples are empty, not mono or not finite.
        """
        if sampling_rate is None:
            warn_of_no_rate(self.sampling_rate)
        elif sampling_rate != self.sampling_rate:
            raise ValueError(f"Expected audio at {self.sampling_rate} Hz, got {sampling_rate} Hz: resample it first.")
        clips = [raw_speech] if getattr(raw_speech, "ndim", 0) == 1 else raw_speech
        samples = [scaled_samples(as_numpy(clip)) for clip in clips]
        features, mask = pad_first_axis([self.log_mel(self.trim(clip)) for clip in samples])
        return BatchFeature({"input_features": features, "attention_mask": mask})


def pad_first_axis(tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Pads tensors with zeros in their first axis and stacks them; `None` is all padding. Also returns the mask."""
    given = next(tensor for tensor in tensors if tensor is not None)
    length = max(len(tensor) for tensor in tensors if tensor is not None)
    batch = given.new_zeros((len(tensors), length, *given.shape[1:]))
    mask = torch.zeros((len(tensors), length), dtype=torch.long)
    for row, tensor in enumerate(tensors):
        if tensor is not None:
            batch[row, : len(tensor)] = tensor
            mask[row, : len(tensor)] = 1
    return batch, mask


class MultimodalFerProcessor(ProcessorMixin):
    r"""
    Decodes, crops and converts audio and video for [`MultimodalFerForEmotionClassification`].

    Args:
        feature_extractor ([`MultimodalFerFeatureExtractor`]): Computes log-mel features of audio.
        image_processor ([`~transformers.SiglipImageProcessor`]): Resizes and normalises frames.
        num_frames (`int`, *optional*, defaults to 16): Frames sampled from a clip.
        face_crop (`str`, *optional*, defaults to `"none"`): `"none"`, `"center"` or `"yunet"`.
        yunet_path (`str`, *optional*): YuNet's ONNX file, if it is not taken from the Hub. It is not saved.
        visual_feature_mean, visual_feature_std (`list[float]`, *optional*):
            Mean and standard deviation of each visual feature over the training split, for models that take
            features in place of pixels.
        visual_feature_tokens (`int`, *optional*, defaults to 1): Tokens per frame of such features.
        max_seconds (`float`, *optional*, defaults to 300): Clips that last longer are refused.
        max_pixels (`int`, *optional*, defaults to 2**25): Videos with more pixels per frame, width times height, are
            refused.

    Raises:
        ValueError: the face crop is unknown, `num_frames` is below 1, or a limit is not positive.
    """

    tokenizer = SimpleNamespace(eos_token_id=None, bos_token_id=None, pad_token_id=None)
    """A stand-in: `Trainer(processing_class=...)` reads special tokens from the tokenizer of every processor."""

    def __init__(
        self,
        feature_extractor,
        image_processor,
        num_frames: int = 16,
        face_crop: str = "none",
        yunet_path: str | None = None,
        visual_feature_mean: list[float] | None = None,
        visual_feature_std: list[float] | None = None,
        visual_feature_tokens: int = 1,
        max_seconds: float = DEFAULT_LIMITS.max_seconds,
        max_pixels: int = DEFAULT_LIMITS.max_pixels,
        **kwargs: Any,
    ):
        if face_crop not in FACE_CROPS:
            raise ValueError(f"Unknown face_crop {face_crop!r}; choose one of {FACE_CROPS}.")
        if num_frames < 1:
            raise ValueError(f"num_frames must be at least 1, got {num_frames}.")
        if not max_seconds > 0 or not max_pixels > 0:
            raise ValueError(f"max_seconds and max_pixels must be positive, got {max_seconds} and {max_pixels}.")
        super().__init__(feature_extractor, image_processor)
        self.max_seconds = max_seconds
        self.max_pixels = max_pixels
        self.num_frames = num_frames
        self.face_crop = face_crop
        self.yunet_path = yunet_path
        self.visual_feature_mean = visual_feature_mean
        self.visual_feature_std = visual_feature_std
        self.visual_feature_tokens = visual_feature_tokens

    @cached_property
    def _crop(self) -> Callable[[np.ndarray], np.ndarray]:
        return face_cropper(self.face_crop, self.yunet_path)

    def to_dict(self) -> dict[str, Any]:
        """The saved form, without the cropper and without `yunet_path`, which is a path of this machine."""
        return {key: value for key, value in super().to_dict().items() if key not in ("_crop", "yunet_path")}

    @property
    def limits(self) -> MediaLimits:
        """Limits of a clip."""
        return MediaLimits(self.max_seconds, self.max_pixels)

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the model's audio, in Hz."""
        return self.feature_extractor.sampling_rate

    def as_samples(self, audio: np.ndarray | Tensor | dict[str, Any], sampling_rate: int | None = None) -> np.ndarray:
        """An array of any length as mono samples at the model's rate; see `as_samples`, also for its errors."""
        return as_samples(audio, sampling_rate, self.sampling_rate)

    def load_audio(self, audio: AudioInput, sampling_rate: int | None = None) -> np.ndarray:
        """
        The sound of a file or array as mono samples at the model's rate, with silent ends cut if `trim_db` is set.

        Args:
            audio: A file, or an array as `as_samples` takes it.
            sampling_rate: Rate of an array in Hz; the model's if not given.

        Raises:
            UnusableMediaError: the file cannot be used, or lasts longer than `max_seconds`.
            ValueError: the array or its rate cannot be used, or it lasts longer than `max_seconds`.
        """
        if isinstance(audio, str | Path):
            return self.feature_extractor.trim(load_audio(audio, self.sampling_rate, self.limits))
        return self.feature_extractor.trim(as_samples(audio, sampling_rate, self.sampling_rate, self.limits))

    def load_video(self, video: VideoInput) -> np.ndarray:
        """
        `num_frames` frames of a file or of an array, cropped to the face: `uint8 (num_frames, height, width, 3)`.

        Raises:
            UnusableMediaError: the file cannot be used, exceeds the limits, or YuNet finds no face in it.
            ValueError: the array is not `(frames, height, width, 3)` `uint8`, or YuNet finds no face in it.
        """
        if isinstance(video, str | Path):
            try:
                return self._crop(load_video(video, self.num_frames, self.limits))
            except NoFaceError as error:
                raise UnusableMediaError(video, str(error)) from error
        frames = as_frames(video)
        middle = ((np.arange(self.num_frames) + 0.5) * len(frames) / self.num_frames).astype(int)
        return self._crop(frames[middle])

    def audio_features(self, samples: np.ndarray) -> Tensor:
        """Mono samples `(samples,)` -> log-mel features `(mel_frames, mel_bins)`."""
        return self.feature_extractor.log_mel(samples)

    def video_features(self, frames: np.ndarray | Tensor) -> Tensor:
        """`uint8` frames, `(F, H, W, 3)` array or `(F, 3, H, W)` tensor -> pixels `(F, 3, height, width)`."""
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        return self.image_processor(frames, return_tensors="pt", input_data_format="channels_first")["pixel_values"]

    def video_inputs(self, video: VideoInput) -> dict[str, Tensor]:
        """The video branch's input for one clip, by its name: `visual_features` or `pixel_values`."""
        if self.visual_feature_mean is not None:
            return {"visual_features": self.visual_features(video)}
        return {"pixel_values": self.video_features(self.load_video(video))}

    def visual_features(self, features: str | Path | np.ndarray) -> Tensor:
        """
        Standardised features that were computed elsewhere, `(F, tokens, dim)`; see `load_visual_features`.

        If there are more than `num_frames` frames, that many are taken, evenly spaced.

        Raises:
            UnusableMediaError: features cannot be read, or their width or tokens are not those of training.
        """
        if isinstance(features, str | Path) and not is_feature_reference(features):
            raise UnusableMediaError(
                features, "this model takes visual features (.npy) for its video, not a media file"
            )
        loaded = load_visual_features(features)
        if self.visual_feature_mean is not None:
            expected = (self.visual_feature_tokens, len(self.visual_feature_mean))
            if loaded.shape[1:] != expected:
                name = "array" if isinstance(features, np.ndarray) else features
                raise UnusableMediaError(name, f"frames have features {loaded.shape[1:]}, the model takes {expected}")
            loaded = (loaded - np.float32(self.visual_feature_mean)) / np.float32(self.visual_feature_std)
        if len(loaded) > self.num_frames:
            loaded = loaded[((np.arange(self.num_frames) + 0.5) * len(loaded) / self.num_frames).astype(int)]
        return torch.from_numpy(loaded)

    def pad(self, examples: Sequence[dict[str, Tensor | None]], modalities: Sequence[str] = ()) -> BatchFeature:
        """
        Batch examples of `audio_features`, and `video_features` or `visual_features`, by model input name.

        An example may lack a modality; its mask is then all zero. A modality that all lack is left out, unless
        `modalities` names it: batches of one run then always have the same tensors.
        """
        size = self.image_processor.size
        empty = {
            # Two frames after subsampling by 8: BatchNorm takes no batch of one value per channel.
            "audio": torch.zeros(16, self.feature_extractor.feature_size),
            "video": torch.zeros(self.num_frames, 3, size["height"], size["width"]),
        }
        video_names = ("pixel_values", "visual_features")
        if self.visual_feature_mean is not None:
            video_names = ("visual_features",)
            empty["video"] = torch.zeros(1, self.visual_feature_tokens, len(self.visual_feature_mean))
        batch = {}
        for modality, names, mask_name in (
            ("audio", ("input_features", "audio_hidden_states"), "attention_mask"),
            ("video", video_names, "frame_mask"),
        ):
            given = [name for name in names if any(example.get(name) is not None for example in examples)]
            for name in given:
                batch[name], batch[mask_name] = pad_first_axis([example.get(name) for example in examples])
            if not given and modality in modalities:
                batch[names[0]], mask = pad_first_axis([empty[modality]] * len(examples))
                batch[mask_name] = torch.zeros_like(mask)
        return BatchFeature(batch)

    def __call__(
        self,
        audio: AudioInput | Sequence[AudioInput | None] | None = None,
        videos: VideoInput | Sequence[VideoInput | None] | None = None,
        sampling_rate: int | None = None,
        modalities: Sequence[str] | None = None,
        video: VideoInput | Sequence[VideoInput | None] | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            audio: A file, samples as `as_samples` takes them, or a list of these with `None` for a clip without sound.
            videos: A file, frames `(frames, height, width, 3)` `uint8` RGB, or a list of these with `None` for a clip
                without video; or visual features, for a model that takes them.
            sampling_rate: Rate of audio arrays in Hz; the model's if not given.
            modalities: Modalities whose tensors are returned even if no clip has them; see `pad`.
            video: Another name for `videos`.
            return_tensors: Only `"pt"`, the default.

        Returns:
            `input_features (B, mel_frames, mel_bins)`, `attention_mask (B, mel_frames)`,
            `pixel_values (B, num_frames, 3, height, width)` or `visual_features (B, F, tokens, dim)`,
            `frame_mask (B, F)`, for the given modalities.

        Raises:
            UnusableMediaError: a file cannot be used.
            ValueError: nothing is given, the lists differ in length, or an array's rate or shape is wrong.
        """
        if videos is not None and video is not None:
            raise ValueError("video and videos are the same; give one of them.")
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors must be 'pt', got {return_tensors!r}.")
        audio_list, video_list = _as_list(audio), _as_list(video if videos is None else videos)
        if not audio_list and not video_list:
            raise ValueError("Give audio, videos or both.")
        count = max(len(audio_list), len(video_list))
        if {len(audio_list), len(video_list)} - {0, count}:
            raise ValueError(f"Got {len(audio_list)} audio clips and {len(video_list)} videos.")
        examples: list[dict[str, Tensor]] = [{} for _ in range(count)]
        for example, item in zip(examples, audio_list, strict=False):
            if item is not None:
                example["input_features"] = self.audio_features(self.load_audio(item, sampling_rate))
        for example, item in zip(examples, video_list, strict=False):
            if item is not None:
                example.update(self.video_inputs(item))
        return self.pad(examples, modalities or ())

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that `__call__` returns."""
        return ["input_features", "attention_mask", "pixel_values", "visual_features", "frame_mask"]


def _as_list(value: Any) -> list:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


__all__ = ["NORMALIZATIONS", "MultimodalFerFeatureExtractor", "MultimodalFerProcessor", "pad_first_axis"]
