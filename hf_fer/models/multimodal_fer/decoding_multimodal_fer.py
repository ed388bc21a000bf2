"""Decodes audio and video of a file into arrays with PyAV, and reads visual features computed elsewhere.

This module sits beside the processor, not under `hf_fer/data`, because a model pushed to the Hub must decode its own
input on a machine without hf_fer.

Times are those of the container's clock, whose zero is the beginning of the file's first track.
"""

import os
import zipfile
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from .limits_multimodal_fer import DEFAULT_LIMITS, MediaLimits, Reach, UnusableMediaError
from .sound_multimodal_fer import SoundOnClock

NOT_A_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
"""Dispositions of video tracks that no player shows as a video: cover art and seeking previews."""

DECODER_VERSION = 2
"""Part of the cache key of decoded media. Raise it when the decoder gives other samples or frames for a file."""

CLOCK_ERROR = 0.002
"""Seconds; containers round timestamps to milliseconds."""


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


def sound_track(container: av.container.InputContainer) -> AudioStream | None:
    """The first audio track, or `None`."""
    return container.streams.audio[0] if container.streams.audio else None


def picture_track(container: av.container.InputContainer) -> VideoStream | None:
    """The first track that a player shows as a video, or `None`; cover art is not one."""
    return next((stream for stream in container.streams.video if not stream.disposition & NOT_A_VIDEO), None)


def media_tracks(path: str | Path) -> tuple[str, ...]:
    """
    Which of `"audio"` and `"video"` a file has.

    Raises:
        UnusableMediaError: the file does not open.
    """
    with open_media(path) as container:
        found = {"audio": sound_track(container), "video": picture_track(container)}
    return tuple(name for name, track in found.items() if track is not None)


def clock_zero(container: av.container.InputContainer) -> float:
    """Timestamp in seconds at which the first of the tracks begins; 0 if no track has a start time."""
    tracks = [track for track in (sound_track(container), picture_track(container)) if track is not None]
    return min((float(t.start_time * t.time_base) for t in tracks if t.start_time is not None), default=0.0)


class Timeline(NamedTuple):
    """
    When a player shows a file's frames, in seconds on its container's clock.

    Args:
        frames: Time of each video frame, ascending; empty without video.
        stop: End of the last track.
    """

    frames: np.ndarray
    stop: float


def read_timeline(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS, by_windows: bool = False) -> Timeline:
    """
    The timeline of a file, read from its packets, without decoding where the container allows it.

    Packets that an edit list hides do not count.

    Args:
        path: Any file that FFmpeg reads.
        limits: Limits of the file; see `Reach`, also for `by_windows`.

    Raises:
        UnusableMediaError: the file does not open, is damaged, or exceeds the limits.
    """
    reach = Reach(path, limits, by_windows)
    with open_media(path) as container:
        zero, picture = clock_zero(container), picture_track(container)
        tracks = [track for track in (sound_track(container), picture) if track is not None]
        frames, complete = [], True
        try:
            for packet in container.demux(tracks) if tracks else ():
                if not packet.size or packet.is_discard:
                    continue
                if packet.pts is None:
                    complete = complete and packet.stream is not picture
                    continue
                time = float(packet.pts * packet.time_base) - zero
                reach.to(time + float((packet.duration or 0) * packet.time_base))
                if packet.stream is picture:
                    frames.append(time)
            times = np.sort(np.array(frames)) if complete else np.array(list(_decoded_frame_times(path, reach)))
        except FFmpegError as error:
            raise UnusableMediaError(path, f"video does not decode ({error})") from error
    last_frame = times[-1] + _frame_step(times) if len(times) else 0.0
    return Timeline(times, float(max(reach.end, last_frame)))


def _frame_step(times: np.ndarray) -> float:
    return float(np.median(np.diff(times))) if len(times) > 1 else 0.0


def _decoded_frame_times(path: str | Path, reach: Reach) -> Iterator[float]:
    """Times of decoded frames, for containers whose packets have none (MPEG program streams, raw H.264)."""
    with open_media(path) as container:
        for time, _ in _timed_frames(container, reach):
            reach.to(time)
            yield time


def _timed_frames(container: av.container.InputContainer, reach: Reach) -> Iterator[tuple[float, VideoFrame]]:
    """Decoded frames, whose size is checked against the limits, with their times on the container's clock."""
    zero, stream = clock_zero(container), picture_track(container)
    check_picture_size(stream, reach)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    # Clips are many and small: data loader workers already run in parallel, and decoder threads take longer to start.
    stream.thread_type = "NONE"
    for index, frame in enumerate(container.decode(stream)):
        check_picture_size(frame, reach)
        yield (index / rate if frame.time is None else frame.time - zero), frame


def check_picture_size(picture: VideoStream | VideoFrame, reach: Reach) -> None:
    """Raises UnusableMediaError where a frame, or a track by its header, has more than `max_pixels`."""
    reason = reach.limits.too_large(picture.width, picture.height)
    if reason:
        raise UnusableMediaError(reach.path, reason)


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


def add_sound(track: SoundOnClock, frame: AudioFrame, reach: Reach) -> None:
    """Add a frame; raises UnusableMediaError where it, or the silence before it, exceeds the limits."""
    length = frame.samples / frame.sample_rate
    if frame.time is not None:
        reach.to(frame.time - track.zero + length)
    track.add(frame)
    reach.to(track.count / track.sampling_rate)


def frame_times(path: str | Path) -> np.ndarray:
    """
    Times of the video frames, in seconds on the container's clock, ascending.

    Raises:
        UnusableMediaError: there is no video track, it has no frames, or the file is damaged.
    """
    return video_timeline(path).frames


def video_timeline(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS, by_windows: bool = False) -> Timeline:
    """`read_timeline` of a file that must have video; its header must not state more than `max_pixels`."""
    with open_media(path) as container:
        picture = picture_track(container)
        if picture is None:
            raise UnusableMediaError(path, "no video track")
        check_picture_size(picture, Reach(path, limits))
    timeline = read_timeline(path, limits, by_windows)
    if not len(timeline.frames):
        raise UnusableMediaError(path, "video track has no frames")
    return timeline


def centres(start: float, stop: float, parts: int) -> np.ndarray:
    """The centres of `parts` equal intervals of the time from `start` to `stop`, ascending."""
    return start + (np.arange(parts) + 0.5) * (stop - start) / parts


def evenly_spaced(times: np.ndarray, num_frames: int) -> np.ndarray:
    """
    Indices of the frames shown at the centres of `num_frames` equal intervals of the clip, ascending.

    Frames are chosen by time and not by index, so that a variable frame rate does not shift them. A clip with fewer
    frames repeats some.
    """
    wanted = centres(times[0], times[-1] + _frame_step(times), num_frames)
    return np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 1)


def load_video(path: str | Path, num_frames: int, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """
    Decode `num_frames` frames spread evenly over the clip, upright.

    The clip lasts from the first to the last moment of sound or video, so that equal intervals of the frames and of
    the samples of `load_audio` cover the same time. Only the chosen frames are converted to RGB, so memory does not
    grow with the clip. If the frame size changes, frames are fitted into the size of the first one.

    Args:
        path: Any video file that FFmpeg reads.
        num_frames: Frames to return.
        limits: Limits of the clip, checked by header and timestamps before decoding, and for each frame.

    Returns:
        `uint8` RGB frames of shape `(num_frames, height, width, 3)`.

    Raises:
        UnusableMediaError: there is no video track, it has no frames, does not decode, ends earlier than its index
            says, or exceeds the limits.
    """
    timeline = video_timeline(path, limits)
    return np.stack(list(frames_at(path, centres(0.0, timeline.stop, num_frames), timeline, limits)))


def frames_at(
    path: str | Path, wanted: np.ndarray, timeline: Timeline, limits: MediaLimits = DEFAULT_LIMITS
) -> Iterator[np.ndarray]:
    """
    The frames that a player shows at given times, in order.

    Args:
        path: A video file.
        wanted: Seconds on the container's clock, ascending.
        timeline: The file's timeline.
        limits: `max_pixels` of a frame.

    Yields:
        `uint8` RGB `(height, width, 3)`, upright, all of one size.

    Raises:
        UnusableMediaError: the file does not decode, or ends earlier than its index says.
    """
    pending, picture, last = deque(wanted), _Picture(), None
    with open_media(path) as container:
        try:
            for time, frame in _timed_frames(container, Reach(path, limits)):
                while pending and time > pending[0] + CLOCK_ERROR:
                    yield picture.of(frame if last is None else last[1])
                    pending.popleft()
                if not pending:
                    return
                last = time, frame
        except FFmpegError as error:
            raise UnusableMediaError(path, f"video does not decode ({error.strerror})") from error
        if last is None:
            raise UnusableMediaError(path, "video track has no frames that decode")
        promised = timeline.frames[timeline.frames <= pending[-1] + CLOCK_ERROR]
        if len(promised) and last[0] < promised[-1] - 2 * _frame_step(timeline.frames) - CLOCK_ERROR:
            raise UnusableMediaError(
                path, f"video ends early: it decodes up to {last[0]:.2f} s, its index goes to {promised[-1]:.2f} s"
            )
        for _ in pending:
            yield picture.of(last[1])


class _Picture:
    """Converts frames to upright RGB arrays of the first frame's size; a repeated frame is converted once."""

    def __init__(self):
        self.reformatter = VideoReformatter()
        self.frame: VideoFrame | None = None
        self.rgb: np.ndarray | None = None
        self.size: tuple[int, int] | None = None

    def of(self, frame: VideoFrame) -> np.ndarray:
        """`uint8` RGB `(height, width, 3)`."""
        if frame is not self.frame:
            rgb = self.reformatter.reformat(frame, format="rgb24").to_ndarray()
            rgb = upright(rgb, frame)
            self.size = self.size or rgb.shape[:2]
            self.frame, self.rgb = frame, fitted(rgb, self.size)
        return self.rgb


def upright(rgb: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """
    Turn and mirror a picture by the frame's display matrix, to the nearest quarter turn.

    The matrix maps a pixel at (x, y) to (a x + c y, b x + d y); `frame.rotation` would lose the mirroring.
    """
    if "DISPLAYMATRIX" not in frame.side_data:
        return rgb
    matrix = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32).reshape(3, 3)
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(b) > abs(a):
        rgb, down, across = rgb.transpose(1, 0, 2), b, c
    else:
        down, across = d, a
    return np.ascontiguousarray(rgb[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def fitted(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture scaled to fit into `(height, width)` with its aspect ratio kept, centred on black."""
    if rgb.shape[:2] == size:
        return rgb
    scale = min(size[0] / rgb.shape[0], size[1] / rgb.shape[1])
    height, width = (max(1, round(side * scale)) for side in rgb.shape[:2])
    canvas = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    scaled = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    canvas[top : top + height, left : left + width] = scaled
    return canvas


FEATURE_SEPARATOR = "::"


def is_feature_reference(source: object) -> bool:
    """Whether a string or path names visual features, `clip.npy` or `archive.npz::clip`, and not a video file."""
    return isinstance(source, str | Path) and str(source).partition(FEATURE_SEPARATOR)[0].endswith((".npy", ".npz"))


@lru_cache(maxsize=4)
def _feature_archive(path: str, modified_ns: int) -> tuple[dict[str, int], np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        names = set(archive.files) - {"keys"}
        if "keys" not in archive.files or len(names) != 1:
            raise ValueError(f"needs 'keys' and one array of features, has {sorted(archive.files)}")
        keys, features = archive["keys"], archive[names.pop()]
    if len(keys) != len(features):
        raise ValueError(f"has {len(keys)} keys for {len(features)} rows of features")
    return {str(key): index for index, key in enumerate(keys)}, features


def feature_archive(path: str | Path) -> tuple[dict[str, int], np.ndarray]:
    """
    Features of many clips in one `.npz`: `keys (n,)`, clip names, and one array, `(n, ...)`, of any name.

    Returns:
        Row by clip name, and the array.

    Raises:
        UnusableMediaError: the file does not exist or is not such an archive.
    """
    try:
        return _feature_archive(str(path), Path(path).stat().st_mtime_ns)
    except FileNotFoundError as error:
        raise UnusableMediaError(path, "file not found") from error
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UnusableMediaError(path, f"is not an archive of features ({error})") from error


def load_visual_features(source: str | Path | np.ndarray) -> np.ndarray:
    """
    Visual features of one clip that were computed elsewhere: action units, landmarks, embeddings.

    Args:
        source: An array, a `.npy` file with one, or `archive.npz::clip`; of shape `(dim,)` for the whole clip,
            `(frames, dim)`, or `(frames, tokens, dim)`.

    Returns:
        `float32` features `(frames, tokens, dim)`.

    Raises:
        UnusableMediaError: the file or the clip in it cannot be found or read, is empty, has another number of axes,
            or has values that are not finite.
    """
    name = "array" if isinstance(source, np.ndarray) else str(source)
    if isinstance(source, np.ndarray):
        features = source
    else:
        path, _, clip = str(source).partition(FEATURE_SEPARATOR)
        if clip:
            rows, table = feature_archive(path)
            if clip not in rows:
                raise UnusableMediaError(source, f"the archive has no clip {clip!r}")
            features = table[rows[clip]]
        else:
            try:
                # With a memory map, a header that claims more data than the file has raises and takes no memory.
                features = np.load(path, mmap_mode="r", allow_pickle=False)
            except FileNotFoundError as error:
                raise UnusableMediaError(source, "file not found") from error
            except (ValueError, OSError, TokenError) as error:
                raise UnusableMediaError(source, f"not readable as a .npy array ({error})") from error
    if not 1 <= features.ndim <= 3 or not features.size:
        raise UnusableMediaError(
            name, f"features are (dim,), (frames, dim) or (frames, tokens, dim), got {features.shape}"
        )
    features = features.astype(np.float32)
    if not np.isfinite(features).all():
        raise UnusableMediaError(name, "features are not finite (NaN or infinity)")
    return features.reshape(-1, 1, features.shape[-1]) if features.ndim < 3 else features


__all__ = [
    "DECODER_VERSION",
    "FEATURE_SEPARATOR",
    "MediaLimits",
    "Timeline",
    "UnusableMediaError",
    "add_sound",
    "centres",
    "clock_zero",
    "evenly_spaced",
    "feature_archive",
    "frame_times",
    "frames_at",
    "is_feature_reference",
    "load_audio",
    "load_video",
    "load_visual_features",
    "media_tracks",
    "open_media",
    "picture_track",
    "read_timeline",
    "sound_track",
    "video_timeline",
]
