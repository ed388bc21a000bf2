"""Decodes sound of a file into samples with PyAV.

Most functions are copies, because a model pushed to the Hub must decode its own input on a machine without hf_fer.
"""

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

NOT_A_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
"""Dispositions of video tracks that no player shows as a video: cover art and seeking previews."""

DECODER_VERSION = 1
"""Part of the key of remembered lengths. Raise it when the decoder gives other samples for a file."""

SOUND_JITTER = 0.05
"""Seconds by which a timestamp of sound may run ahead of the samples before it counts as a hole."""


class MediaLimits(NamedTuple):
    """
    Limits of a recording; a file of a few kilobytes can decode to hours of silence.

    Args:
        max_seconds: Length of a recording, from the first to the last moment of sound or video.
    """

    max_seconds: float = 300.0

    def too_long(self, seconds: float) -> str | None:
        """Why a recording of that length is not read, or `None`."""
        if seconds <= self.max_seconds:
            return None
        return (
            f"it lasts {seconds:.0f} s or more, over max_seconds = {self.max_seconds:g}: cut it, or raise max_seconds"
        )


DEFAULT_LIMITS = MediaLimits()


# Copied from hf_fer.models.multimodal_fer.limits_multimodal_fer.UnusableMediaError
class UnusableMediaError(ValueError):
    """The file cannot be used; `reason` says why, in words a person can act on."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


# Copied from hf_fer.models.multimodal_fer.limits_multimodal_fer.Reach
class Reach:
    """
    The latest timestamp of a file, in seconds, checked against the limits while the file is read.

    Args:
        path: The file.
        limits: Its limits.
        by_windows: Whether the file is read by windows. Then `max_seconds` bounds the gap between two timestamps,
            which is filled with silence or a still frame, instead of the file's length.
    """

    def __init__(self, path: str | Path, limits: MediaLimits, by_windows: bool = False):
        self.path = path
        self.limits = limits
        self.by_windows = by_windows
        self.end = 0.0

    def to(self, seconds: float) -> None:
        """Advance to a time in seconds; raises UnusableMediaError where that exceeds the limits."""
        if self.by_windows and seconds - self.end > self.limits.max_seconds:
            raise UnusableMediaError(
                self.path,
                f"its timestamps jump from {self.end:.0f} s to {seconds:.0f} s, over max_seconds = "
                f"{self.limits.max_seconds:g}: repair it, or raise max_seconds",
            )
        reason = None if self.by_windows else self.limits.too_long(seconds)
        if reason:
            raise UnusableMediaError(self.path, reason)
        self.end = max(self.end, seconds)


# Copied from hf_fer.models.multimodal_fer.decoding_multimodal_fer.open_media
def open_media(path: str | Path) -> av.container.InputContainer:
    """
    Open a media file.

    Raises:
        UnusableMediaError: the file does not exist, is empty, or is not audio or video.
    """
    path = Path(path)
    if not os.path.isfile(path):  # False also for a name that is too long, where Path.is_file() raises
        raise UnusableMediaError(path, "file not found")
    if path.stat().st_size == 0:
        raise UnusableMediaError(path, "file is empty (0 bytes)")
    try:
        return av.open(str(path), metadata_errors="ignore")
    except FFmpegError as error:
        raise UnusableMediaError(path, f"not readable as audio or video ({error.strerror})") from error


# Copied from hf_fer.models.multimodal_fer.decoding_multimodal_fer.sound_track
def sound_track(container: av.container.InputContainer) -> AudioStream | None:
    """The first audio track, or `None`."""
    return container.streams.audio[0] if container.streams.audio else None


# Copied from hf_fer.models.multimodal_fer.decoding_multimodal_fer.picture_track
def picture_track(container: av.container.InputContainer) -> VideoStream | None:
    """The first track that a player shows as a video, or `None`; cover art is not one."""
    return next((stream for stream in container.streams.video if not stream.disposition & NOT_A_VIDEO), None)


# Copied from hf_fer.models.multimodal_fer.decoding_multimodal_fer.clock_zero
def clock_zero(container: av.container.InputContainer) -> float:
    """Timestamp in seconds at which the first of the tracks begins; 0 if no track has a start time."""
    tracks = [track for track in (sound_track(container), picture_track(container)) if track is not None]
    return min((float(t.start_time * t.time_base) for t in tracks if t.start_time is not None), default=0.0)


# Copied from hf_fer.models.multimodal_fer.sound_multimodal_fer.SoundOnClock
class SoundOnClock:
    """
    Frames of sound, resampled, averaged to mono and placed by their timestamps.

    Args:
        sampling_rate: Wanted rate in Hz.
        zero: Timestamp of the clock's zero, in seconds.
    """

    def __init__(self, sampling_rate: int, zero: float):
        self.sampling_rate = sampling_rate
        self.zero = zero
        self.chunks: list[np.ndarray] = []
        self.count = 0
        self.forgotten = 0
        self.kind: tuple | None = None
        self.expected: float | None = None

    def add(self, frame: AudioFrame) -> None:
        """Append a frame, after silence if its timestamp is ahead; its rate and layout may differ from the last."""
        kind = (frame.sample_rate, frame.layout.name, frame.format.name)
        time = None if frame.time is None else frame.time - self.zero
        late = time is not None and time - (self.expected or 0.0) > (SOUND_JITTER if self.count else 0.0)
        if kind != self.kind or late:
            self.flush()
            if late:
                self._append(np.zeros(max(round(time * self.sampling_rate) - self.count, 0), np.float32))
            # Packed samples: PyAV's planar arrays crash from eight channels on. The layout is kept and averaged
            # here, because FFmpeg's own mix to mono makes stereo 3 dB louder than mono.
            self.resampler = av.AudioResampler(format="flt", rate=self.sampling_rate)
            self.kind = kind
        begins = self.expected if self.expected is not None and not late else time or 0.0
        self.expected = begins + frame.samples / frame.sample_rate
        self._convert(frame)

    def flush(self) -> None:
        """Append the samples that the resampler still holds."""
        if self.kind is not None:
            self._convert(None)
            self.kind = None

    def _convert(self, frame: AudioFrame | None) -> None:
        for resampled in self.resampler.resample(frame):
            channels = resampled.layout.nb_channels
            self._append(resampled.to_ndarray().reshape(-1, channels).mean(axis=1))

    def _append(self, samples: np.ndarray) -> None:
        if len(samples):
            self.chunks.append(samples)
            self.count += len(samples)

    def between(self, first: int, last: int) -> np.ndarray:
        """Samples `first` to `last`, `float32`, with silence for missing ones; earlier samples are dropped."""
        held = np.concatenate([np.zeros(0, np.float32), *self.chunks])[max(first - self.forgotten, 0) :]
        self.forgotten = min(max(first, self.forgotten), self.count)
        self.chunks = [held]
        wanted = held[: last - first]
        return np.pad(wanted, (0, last - first - len(wanted)))

    def samples(self, stop: float) -> np.ndarray:
        """All samples, `float32 (samples,)`, with silence up to `stop` seconds; empty if there was no frame."""
        if not self.chunks:
            return np.zeros(0, np.float32)
        # Codecs such as AAC and MP3 may add or lose a frame, which is not a track that ends early.
        missing = stop - self.count / self.sampling_rate
        if missing > SOUND_JITTER:
            self._append(np.zeros(round(missing * self.sampling_rate), np.float32))
        return np.concatenate(self.chunks)


# Copied from hf_fer.models.multimodal_fer.decoding_multimodal_fer.load_audio
def load_audio(path: str | Path, sampling_rate: int, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """
    Decode the first audio track, average its channels and resample it.

    Samples are placed by their timestamps on the container's clock, so that index / rate is the time of the frame
    shown with them. Silence fills a late beginning, holes, and the end if video lasts longer.

    Args:
        path: Any file that FFmpeg reads; video files give their sound track.
        sampling_rate: Wanted rate in Hz.
        limits: `max_seconds` of sound or video, checked by timestamps and by the samples that are decoded.

    Returns:
        `float32` samples in [-1, 1], shape `(samples,)`.

    Raises:
        UnusableMediaError: there is no audio track, it has no samples, does not decode, has samples that are not
            finite, or exceeds the limits.
    """
    with open_media(path) as container:
        if sound_track(container) is None:
            raise UnusableMediaError(path, "no audio track")
        track = SoundOnClock(sampling_rate, clock_zero(container))
        try:
            stop = _decode_sound(container, track, Reach(path, limits))
        except UnusableMediaError:
            raise
        except (FFmpegError, ValueError) as error:
            raise UnusableMediaError(path, f"audio does not decode ({error})") from error
    samples = track.samples(stop)
    if not len(samples):
        raise UnusableMediaError(path, "audio track has no samples")
    if not np.isfinite(samples).all():
        raise UnusableMediaError(path, "audio has samples that are not finite (NaN or infinity)")
    return samples


# Copied from hf_fer.models.multimodal_fer.decoding_multimodal_fer._decode_sound
def _decode_sound(container: av.container.InputContainer, track: SoundOnClock, reach: Reach) -> float:
    """Decode the sound into `track`; returns the end of the video in seconds, 0 without video."""
    sound, picture, stop = sound_track(container), picture_track(container), 0.0
    for packet in container.demux([stream for stream in (sound, picture) if stream is not None]):
        if packet.pts is not None and not packet.is_discard:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - track.zero
            reach.to(end)
            stop = max(stop, end) if packet.stream is picture else stop
        for frame in packet.decode() if packet.stream is sound else ():
            add_sound(track, frame, reach)
    track.flush()
    return stop


# Copied from hf_fer.models.multimodal_fer.decoding_multimodal_fer.add_sound
def add_sound(track: SoundOnClock, frame: AudioFrame, reach: Reach) -> None:
    """Add a frame; raises UnusableMediaError where it, or the silence before it, exceeds the limits."""
    length = frame.samples / frame.sample_rate
    if frame.time is not None:
        reach.to(frame.time - track.zero + length)
    track.add(frame)
    reach.to(track.count / track.sampling_rate)


def sound_blocks(
    source: str | Path | bytes, sampling_rate: int, limits: MediaLimits = DEFAULT_LIMITS, *, any_length: bool = False
) -> Iterator[np.ndarray]:
    """
    The samples of `load_audio` in blocks, in memory that does not grow with the recording.

    Args:
        source: A file, or its bytes.
        sampling_rate: Wanted rate in Hz.
        limits: `max_seconds` of the recording; with `any_length`, of a gap in its timestamps.
        any_length: Whether the recording may be of any length.

    Yields:
        `float32` samples in [-1, 1], about a second at a time.

    Raises:
        UnusableMediaError: see `load_audio`.
    """
    name = "the given bytes" if isinstance(source, bytes) else source
    with _opened(source, name) as container:
        sound, picture = sound_track(container), picture_track(container)
        if sound is None:
            raise UnusableMediaError(name, "no audio track")
        track, reach = SoundOnClock(sampling_rate, clock_zero(container)), Reach(name, limits, any_length)
        given, stop = 0, 0.0
        try:
            for packet in container.demux([stream for stream in (sound, picture) if stream is not None]):
                if packet.pts is not None and not packet.is_discard:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - track.zero
                    reach.to(end)
                    stop = max(stop, end) if packet.stream is picture else stop
                for frame in packet.decode() if packet.stream is sound else ():
                    add_sound(track, frame, reach)
                if track.count - given >= sampling_rate:
                    yield _finite(track.between(given, track.count), name)
                    given = track.count
            track.flush()
        except UnusableMediaError:
            raise
        except (FFmpegError, ValueError) as error:
            raise UnusableMediaError(name, f"audio does not decode ({error})") from error
        if not track.count:
            raise UnusableMediaError(name, "audio track has no samples")
        missing = stop - track.count / sampling_rate
        last = track.count + (round(missing * sampling_rate) if missing > SOUND_JITTER else 0)
        for start in range(given, last, sampling_rate):
            yield _finite(track.between(start, min(start + sampling_rate, last)), name)


def _opened(source: str | Path | bytes, name: str | Path) -> av.container.InputContainer:
    if not isinstance(source, bytes):
        return open_media(source)
    try:
        return av.open(io.BytesIO(source), metadata_errors="ignore")
    except FFmpegError as error:
        raise UnusableMediaError(name, f"not readable as audio or video ({error.strerror})") from error


def _finite(samples: np.ndarray, name: str | Path) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise UnusableMediaError(name, "audio has samples that are not finite (NaN or infinity)")
    return samples


def resampled(blocks: Iterable[np.ndarray], rate: int, wanted: int) -> Iterator[np.ndarray]:
    """Resamples mono `float32` blocks `(samples,)` as one continuous signal."""
    if rate == wanted:
        yield from blocks
        return
    resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted)
    for block in blocks:
        if len(block):
            frame = AudioFrame.from_ndarray(np.ascontiguousarray(block, np.float32)[None], format="flt", layout="mono")
            frame.sample_rate = rate
            yield from (found.to_ndarray()[0] for found in resampler.resample(frame))
    yield from (found.to_ndarray()[0] for found in resampler.resample(None))


__all__ = [
    "DECODER_VERSION",
    "DEFAULT_LIMITS",
    "MediaLimits",
    "SoundOnClock",
    "UnusableMediaError",
    "load_audio",
    "open_media",
    "resampled",
    "sound_blocks",
    "sound_track",
]
