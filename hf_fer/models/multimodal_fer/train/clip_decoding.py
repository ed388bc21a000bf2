"""Decodes uploaded clips and recordings for the server, in a process without the model."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hf_fer.task.service import Arrays

from ..decoding_multimodal_fer import load_audio, load_video, media_tracks, read_timeline, video_timeline
from ..limits_multimodal_fer import MediaLimits, UnusableMediaError
from ..windows_multimodal_fer import clip_windows


class ClipLimits(MediaLimits):
    """Limits of a clip, with a message that says how the server takes longer ones."""

    def too_long(self, seconds: float) -> str | None:
        return super().too_long(seconds) and (
            f"it lasts {seconds:.0f} s or more, over max_seconds = {self.max_seconds:g}: cut it, or ask /v1/emotion "
            "with timeline=true"
        )


@dataclass(frozen=True, kw_only=True)
class ClipReader:
    """
    What a model reads of a clip, and within which limits.

    Args:
        modalities: Modalities of the model.
        sampling_rate: Rate of the sound, in Hz.
        num_frames: Number of frames, evenly spaced over a clip or window.
        limits: Limits of sound and frames of a clip or window.
        max_frames: Most frames of a video.
    """

    modalities: tuple[str, ...]
    sampling_rate: int
    num_frames: int
    limits: ClipLimits
    max_frames: int

    def tracks(self, path: str) -> list[str]:
        """The model's modalities that the file has; raises `UnusableMediaError` if it has none."""
        found = [name for name in self.modalities if name in media_tracks(path)]
        if not found:
            raise UnusableMediaError(path, f"has none of {', '.join(self.modalities)}")
        return found

    def check_frames(self, path: str, frames: int, seconds: float = 0.0) -> None:
        """Raises `UnusableMediaError` if a video has too many frames; one longer than a clip may have more."""
        if frames > self.max_frames * max(1.0, seconds / self.limits.max_seconds):
            raise UnusableMediaError(path, f"it has {frames} frames, over max_frames = {self.max_frames}")


class ClipDecoder(ClipReader):
    """Decodes a clip's sound and the frames that the model looks at, as the processor decodes them."""

    def __call__(self, path: str) -> Arrays:
        """Raises `UnusableMediaError` where the file has none of the modalities, or exceeds the limits."""
        found = self.tracks(path)
        arrays = {}
        if "video" in found:
            self.check_frames(path, len(video_timeline(path, self.limits).frames))
            arrays["video"] = load_video(path, self.num_frames, self.limits)
        if "audio" in found:
            arrays["audio"] = load_audio(path, self.sampling_rate, self.limits)
        return arrays


@dataclass(frozen=True, kw_only=True)
class WindowDecoder(ClipReader):
    """
    Decodes a recording window by window, as the pipeline does for a timeline.

    Args:
        length, stride: Length and stride of the windows, in seconds.
        max_seconds: Longest recording.
    """

    length: float
    stride: float
    max_seconds: float

    def __call__(self, path: str) -> Iterator[Arrays]:
        """
        Yields `audio`, `video` and `window` (start and end, in seconds) of each window.

        Raises:
            UnusableMediaError: the file has none of the modalities, does not decode, or exceeds the limits.
            ValueError: `length` or `stride` cannot be used.
        """
        found = self.tracks(path)
        timeline = read_timeline(path, self.limits, by_windows=True)
        if timeline.stop > self.max_seconds:
            said = f"it lasts {timeline.stop:.0f} s, over max_timeline_seconds = {self.max_seconds:g}"
            raise UnusableMediaError(path, said)
        self.check_frames(path, len(timeline.frames) if "video" in found else 0, timeline.stop)
        for window, given in clip_windows(self, dict.fromkeys(found, path), self.length, self.stride):
            yield {**given, "window": np.array(window)}
