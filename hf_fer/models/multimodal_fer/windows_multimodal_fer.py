"""Reads long recordings window by window, in memory that does not grow with their length."""

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av.error import FFmpegError

from .decoding_multimodal_fer import (
    UnusableMediaError,
    add_sound,
    centres,
    clock_zero,
    frames_at,
    open_media,
    read_timeline,
    sound_track,
    video_timeline,
)
from .limits_multimodal_fer import MediaLimits, Reach
from .sound_multimodal_fer import SOUND_JITTER, SoundOnClock


class Window(NamedTuple):
    """An interval of a recording, in seconds on its container's clock."""

    start: float
    end: float


def window_times(seconds: float, length: float, stride: float) -> list[Window]:
    """
    Windows that cover a recording, `stride` apart.

    The last window ends with the recording and is as long as the others, so that it may overlap more with the one
    before. A recording shorter than a window becomes one window of its own length.
    """
    if seconds <= length:
        return [Window(0.0, seconds)]
    count = 1 + math.ceil((seconds - length) / stride - 1e-9)
    starts = [min(index * stride, seconds - length) for index in range(count)]
    return [Window(start, start + length) for start in starts]


def check_windows(limits: MediaLimits, length: float, stride: float) -> None:
    """Raises ValueError where windows have no length, exceed the limit, or leave gaps."""
    if not 0 < length <= limits.max_seconds:
        raise ValueError(
            f"window_seconds must be over 0 and at most max_seconds = {limits.max_seconds:g}, got {length}."
        )
    if not 0 < stride <= length:
        raise ValueError(f"stride_seconds must be over 0 and at most window_seconds = {length:g}, got {stride}.")


def sound_windows(
    path: str | Path, sampling_rate: int, windows: Sequence[Window], limits: MediaLimits
) -> Iterator[np.ndarray]:
    """
    Decode the sound of each window in turn: `float32 (samples,)`, mono, placed as in `load_audio`.

    Raises:
        UnusableMediaError: the file does not decode, has samples that are not finite or a gap over the limits, or its
            sound goes on after its timestamps end.
    """
    reach = Reach(path, limits, by_windows=True)
    with open_media(path) as container:
        track = SoundOnClock(sampling_rate, clock_zero(container))
        frames = container.decode(sound_track(container))
        try:
            for window in windows:
                first, last = (round(moment * sampling_rate) for moment in window)
                while track.count < last:
                    frame = next(frames, None)
                    if frame is None:
                        track.flush()
                        break
                    add_sound(track, frame, reach)
                samples = track.between(first, last)
                if not np.isfinite(samples).all():
                    raise UnusableMediaError(path, "audio has samples that are not finite (NaN or infinity)")
                yield samples
            left = sum(frame.samples / frame.sample_rate for frame in frames)
        except FFmpegError as error:
            raise UnusableMediaError(path, f"audio does not decode ({error})") from error
    if left > 1 + SOUND_JITTER:
        raise UnusableMediaError(path, f"its sound goes on for {left:.0f} s after its timestamps end: repair it")


def picture_windows(
    path: str | Path, num_frames: int, windows: Sequence[Window], limits: MediaLimits
) -> Iterator[np.ndarray]:
    """
    Decode `num_frames` frames of each window in turn: `uint8` RGB `(num_frames, height, width, 3)`.

    A frame of overlapping windows is decoded once.

    Raises:
        UnusableMediaError: see `load_video`.
    """
    timeline = video_timeline(path, limits, by_windows=True)
    moments = np.stack([centres(*window, num_frames) for window in windows])
    wanted, inverse = np.unique(moments, return_inverse=True)
    places = inverse.reshape(moments.shape)
    held: dict[int, np.ndarray] = {}
    frames = enumerate(frames_at(path, wanted, timeline, limits))
    for row in places:
        while row[-1] not in held:
            index, frame = next(frames)
            held[index] = frame
        yield np.stack([held[place] for place in row])
        held = {place: frame for place, frame in held.items() if place > row[0]}


def clip_windows(
    processor: Any, clip: dict[str, Any], length: float, stride: float
) -> Iterator[tuple[Window, dict[str, Any]]]:
    """
    A recording's windows, with the `audio`, its `sampling_rate`, and the `video` of each.

    Args:
        processor: The model's processor, for its rate, number of frames and limits.
        clip: `audio`, a file, or an array at the processor's rate; `video`, a file; either may be missing.
        length, stride: Length and stride of the windows, in seconds.

    Raises:
        ValueError: the windows are invalid, or `video` is an array, whose frames have no times.
        UnusableMediaError: a file cannot be used.
    """
    limits, rate = processor.limits, processor.sampling_rate
    check_windows(limits, length, stride)
    audio, video = clip.get("audio"), clip.get("video")
    if video is not None and not isinstance(video, str | Path):
        raise ValueError("window_seconds needs the video as a file: an array of frames has no times.")
    is_file = isinstance(audio, str | Path)
    files = {str(item) for item in (audio if is_file else None, video) if item is not None}
    seconds = [read_timeline(file, limits, by_windows=True).stop for file in files]
    if audio is not None and not is_file:
        seconds.append(len(audio) / rate)
    if not max(seconds) > 0:
        raise UnusableMediaError(next(iter(files), "array"), "has a duration of 0 s")
    windows = window_times(max(seconds), length, stride)
    sound = pictures = repeat(None)
    if audio is not None:
        sound = sound_windows(audio, rate, windows, limits) if is_file else _slices(audio, rate, windows)
    if video is not None:
        pictures = picture_windows(video, processor.num_frames, windows, limits)
    for window, samples, frames in zip(windows, sound, pictures, strict=False):
        given = {"audio": samples, "video": frames, "sampling_rate": rate}
        yield window, {name: value for name, value in given.items() if value is not None}


def _slices(samples: np.ndarray, rate: int, windows: Sequence[Window]) -> Iterator[np.ndarray]:
    for start, end in windows:
        part = samples[round(start * rate) : round(end * rate)]
        yield np.pad(part, (0, round((end - start) * rate) - len(part))) if len(part) else np.zeros(1, np.float32)


__all__ = ["Window", "clip_windows", "window_times"]
