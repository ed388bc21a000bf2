"""Audio and video of one file as arrays, decoded with PyAV, and visual features computed elsewhere.

It sits beside the processor, and not under `hf_fer/data`, because a model pushed to the Hub must decode its own
input on a machine without hf_fer.

Sound and pictures are placed on the container's clock, whose zero is where the first of a file's tracks begins.
"""

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
"""Dispositions of picture tracks that no player shows as a video: cover art and seeking previews."""

DECODER_VERSION = 2
"""Part of the key of cached media; to be raised where the same file comes out as other samples or frames."""

CLOCK_ERROR = 0.002
"""Seconds; containers round timestamps to milliseconds."""


def open_media(path: str | Path) -> av.container.InputContainer:
    """
    Open a media file.

    Raises:
        UnusableMediaError: it does not exist, is empty, or is not audio or video.
    """
    path = Path(path)
    if not path.is_file():
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
        UnusableMediaError: it does not open.
    """
    with open_media(path) as container:
        found = {"audio": sound_track(container), "video": picture_track(container)}
    return tuple(name for name, track in found.items() if track is not None)


def clock_zero(container: av.container.InputContainer) -> float:
    """Timestamp in seconds at which the first of the tracks begins; 0 where no track says."""
    tracks = [track for track in (sound_track(container), picture_track(container)) if track is not None]
    return min((float(t.start_time * t.time_base) for t in tracks if t.start_time is not None), default=0.0)


class Timeline(NamedTuple):
    """
    What a player shows of a file, in seconds on its container's clock.

    Args:
        frames: When each frame of video is shown, ascending; empty without video.
        stop: When the last of the tracks ends.
    """

    frames: np.ndarray
    stop: float


def read_timeline(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS, by_windows: bool = False) -> Timeline:
    """
    The timeline of a file, read from its packets, without decoding where the container allows it.

    Packets that an edit list hides do not count.

    Args:
        path: Any file that FFmpeg reads.
        limits: What it may be; see `Reach`, also for `by_windows`.

    Raises:
        UnusableMediaError: the file does not open, is damaged, or is over the limits.
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
    """Times by decoding, for containers whose packets carry none (MPEG program streams, raw H.264)."""
    with open_media(path) as container:
        for time, _ in _timed_frames(container, reach):
            reach.to(time)
            yield time


def _timed_frames(container: av.container.InputContainer, reach: Reach) -> Iterator[tuple[float, VideoFrame]]:
    """Decoded frames of no more than the most pixels, and when each is shown on the container's clock."""
    zero, stream = clock_zero(container), picture_track(container)
    check_picture_size(stream, reach)
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    # Clips are small and many: data loader workers are the parallelism, and decoder threads cost more to start.
    stream.thread_type = "NONE"
    for index, frame in enumerate(container.decode(stream)):
        check_picture_size(frame, reach)
        yield (index / rate if frame.time is None else frame.time - zero), frame


def check_picture_size(picture: VideoStream | VideoFrame, reach: Reach) -> None:
    """Raises UnusableMediaError where a track, by its header, or a frame has more than `max_pixels`."""
    reason = reach.limits.too_large(picture.width, picture.height)
    if reason:
        raise UnusableMediaError(reach.path, reason)


def load_audio(path: str | Path, sampling_rate: int, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """
    Decode the first audio track, average its channels and resample it.

    Samples stand where their timestamps put them on the container's clock, so that index / rate is the same moment
    as in the pictures: sound that begins late or has holes is filled with silence, and where there is video, sound
    that ends before it, too.

    Args:
        path: Any file that FFmpeg reads; video files give their sound track.
        sampling_rate: Wanted rate in Hz.
        limits: `max_seconds` of sound or video, told by the timestamps and counted while decoding.

    Returns:
        `float32` samples in [-1, 1], shape `(samples,)`.

    Raises:
        UnusableMediaError: no audio track, no samples in it, a decoding error, samples that are not finite, or more
            of them than the limits allow.
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
    """Decode the sound into `track`; returns when the video ends, 0 without video."""
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
    """Add a frame, unless it, or the silence before it, is out of the limits, which raises UnusableMediaError."""
    length = frame.samples / frame.sample_rate
    if frame.time is not None:
        reach.to(frame.time - track.zero + length)
    track.add(frame)
    reach.to(track.count / track.sampling_rate)


def frame_times(path: str | Path) -> np.ndarray:
    """
    When each frame of video is shown, in seconds on the container's clock, ascending.

    Raises:
        UnusableMediaError: no video track, no frames in it, or a damaged file.
    """
    return video_timeline(path).frames


def video_timeline(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS, by_windows: bool = False) -> Timeline:
    """`read_timeline` of a file that must have video, whose pictures must not be too large by their header."""
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
    """The centres of equal parts of a stretch of time, ascending."""
    return start + (np.arange(parts) + 0.5) * (stop - start) / parts


def evenly_spaced(times: np.ndarray, num_frames: int) -> np.ndarray:
    """
    Indices of the frames shown at the centres of `num_frames` equal parts of the clip, ascending.

    By time and not by index, so that a variable frame rate does not shift the sample; a clip with fewer frames
    than asked repeats some.
    """
    wanted = centres(times[0], times[-1] + _frame_step(times), num_frames)
    return np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 1)


def load_video(path: str | Path, num_frames: int, limits: MediaLimits = DEFAULT_LIMITS) -> np.ndarray:
    """
    Decode `num_frames` frames spread evenly over the clip, upright.

    The clip is what a player shows, from the first to the last moment of sound or video, so that equal parts of the
    samples of `load_audio` and of the frames are the same moments. Only the chosen frames are converted to RGB, so
    memory does not grow with the clip. Where the size changes on the way, frames are fitted into the first one's.

    Args:
        path: Any video file that FFmpeg reads.
        num_frames: Frames to return.
        limits: What the clip may be; told by its header and timestamps, before it is decoded, and by each frame.

    Returns:
        `uint8` RGB frames of shape `(num_frames, height, width, 3)`.

    Raises:
        UnusableMediaError: no video track, no frames, a decoding error, a file that ends before its index says, or
            one over the limits.
    """
    timeline = video_timeline(path, limits)
    return np.stack(list(frames_at(path, centres(0.0, timeline.stop, num_frames), timeline, limits)))


def frames_at(
    path: str | Path, wanted: np.ndarray, timeline: Timeline, limits: MediaLimits = DEFAULT_LIMITS
) -> Iterator[np.ndarray]:
    """
    The pictures that a player shows at given times, one after the other.

    Args:
        path: A video file.
        wanted: Seconds on the container's clock, ascending.
        timeline: The file's.
        limits: `max_pixels` of a frame.

    Yields:
        `uint8` RGB `(height, width, 3)`, upright, all of one size.

    Raises:
        UnusableMediaError: a decoding error, or a file that ends before its index says.
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
    """Frames as upright RGB arrays of the first one's size; the same frame twice is converted once."""

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
    A picture turned and mirrored as the frame's display matrix says, to the nearest quarter turn.

    The matrix takes a pixel at (x, y) to (a x + c y, b x + d y); `frame.rotation` would lose the mirroring.
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
    """A picture scaled to fit into `(height, width)`, its proportions kept, in the middle of black."""
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
        UnusableMediaError: the file does not exist or holds something else.
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
        UnusableMediaError: the file or the clip in it cannot be found or read, has another number of axes or
            nothing in it, or values that are not finite.
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
                # Mapped, a header that claims more than the file has is an error, and takes no memory.
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
