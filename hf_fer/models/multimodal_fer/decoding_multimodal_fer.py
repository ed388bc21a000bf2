"""Audio and video of one file as arrays, decoded with PyAV, and visual features computed elsewhere.

It sits beside the processor, and not under `hf_fer/data`, because a model pushed to the Hub must decode its own
input on a machine without hf_fer.
"""

import zipfile
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter


class UnusableMediaError(ValueError):
    """A file that cannot be used, with the reason in words a person can act on."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


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
        return av.open(str(path))
    except FFmpegError as error:
        raise UnusableMediaError(path, f"not readable as audio or video ({error.strerror})") from error


def load_audio(path: str | Path, sampling_rate: int) -> np.ndarray:
    """
    Decode the first audio track, average its channels and resample it.

    Args:
        path: Any file that FFmpeg reads; video files give their sound track.
        sampling_rate: Wanted rate in Hz.

    Returns:
        `float32` samples in [-1, 1], shape `(samples,)`.

    Raises:
        UnusableMediaError: no audio track, no samples in it, a decoding error, or samples that are not finite.
    """
    chunks: list[np.ndarray] = []
    with open_media(path) as container:
        if not container.streams.audio:
            raise UnusableMediaError(path, "no audio track")
        # The layout is kept and averaged below: FFmpeg's own mix to mono makes stereo 3 dB louder than mono.
        resampler = av.AudioResampler(format="fltp", rate=sampling_rate)
        try:
            for frame in container.decode(container.streams.audio[0]):
                chunks += [resampled.to_ndarray().mean(axis=0) for resampled in resampler.resample(frame)]
            if chunks:
                chunks += [resampled.to_ndarray().mean(axis=0) for resampled in resampler.resample(None)]
        except (FFmpegError, ValueError) as error:
            raise UnusableMediaError(path, f"audio does not decode ({error})") from error
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.float32)
    if not len(samples):
        raise UnusableMediaError(path, "audio track has no samples")
    if not np.isfinite(samples).all():
        raise UnusableMediaError(path, "audio has samples that are not finite (NaN or infinity)")
    return samples


def frame_times(path: str | Path) -> np.ndarray:
    """
    Presentation times in seconds of every video frame, ascending, read without decoding where the file allows it.

    Raises:
        UnusableMediaError: no video track, no frames in it, or a damaged file.
    """
    with open_media(path) as container:
        if not container.streams.video:
            raise UnusableMediaError(path, "no video track")
        stream = container.streams.video[0]
        try:
            packets = [packet.pts for packet in container.demux(stream) if packet.size]
            if packets and None not in packets:
                times = np.sort(np.array([float(pts * stream.time_base) for pts in packets]))
            else:
                times = _decoded_frame_times(path)
        except FFmpegError as error:
            raise UnusableMediaError(path, f"video does not decode ({error})") from error
    if not len(times):
        raise UnusableMediaError(path, "video track has no frames")
    return times


def _decoded_frame_times(path: str | Path) -> np.ndarray:
    """Times by decoding, for containers whose packets carry none (MPEG program streams, raw H.264)."""
    with open_media(path) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        times = [frame.time for frame in container.decode(stream)]
    return np.array([index / rate if time is None else time for index, time in enumerate(times)])


def evenly_spaced(times: np.ndarray, num_frames: int) -> np.ndarray:
    """
    Indices of the frames shown at the centres of `num_frames` equal parts of the clip, ascending.

    By time and not by index, so that a variable frame rate does not shift the sample; a clip with fewer frames
    than asked repeats some.
    """
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    wanted = times[0] + (np.arange(num_frames) + 0.5) * (times[-1] + step - times[0]) / num_frames
    return np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 1)


def load_video(path: str | Path, num_frames: int) -> np.ndarray:
    """
    Decode `num_frames` frames spread evenly over the clip, upright.

    Only the chosen frames are converted to RGB, so memory does not grow with the clip.

    Args:
        path: Any video file that FFmpeg reads.
        num_frames: Frames to return.

    Returns:
        `uint8` RGB frames of shape `(num_frames, height, width, 3)`.

    Raises:
        UnusableMediaError: no video track, no frames, a decoding error, or a file that ends before its index says.
    """
    chosen = evenly_spaced(frame_times(path), num_frames)
    images: dict[int, np.ndarray] = {}
    reformatter = VideoReformatter()
    with open_media(path) as container:
        stream = container.streams.video[0]
        # Clips are small and many: data loader workers are the parallelism, and decoder threads cost more to start.
        stream.thread_type = "NONE"
        last, decoded = int(chosen[-1]), 0
        try:
            for frame in container.decode(stream):
                if decoded in chosen:
                    rgb = reformatter.reformat(frame, format="rgb24").to_ndarray()
                    upright = np.rot90(rgb, k=round(frame.rotation / 90))
                    images[decoded] = np.ascontiguousarray(upright)
                decoded += 1
                if decoded > last:
                    break
        except FFmpegError as error:
            raise UnusableMediaError(path, f"video does not decode ({error.strerror})") from error
    if decoded <= last:
        raise UnusableMediaError(path, f"video ends early: {decoded} frames decode, frame {last + 1} is needed")
    return np.stack([images[index] for index in chosen])


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
                features = np.load(path, allow_pickle=False)
            except FileNotFoundError as error:
                raise UnusableMediaError(source, "file not found") from error
            except (ValueError, OSError) as error:
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
    "FEATURE_SEPARATOR",
    "UnusableMediaError",
    "evenly_spaced",
    "feature_archive",
    "frame_times",
    "is_feature_reference",
    "load_audio",
    "load_video",
    "load_visual_features",
    "open_media",
]
