"""Real media files for tests, written with PyAV: whole ones, odd ones and broken ones."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def tone(seconds: float, rate: int, channels: int = 1, frequency: float = 220.0) -> np.ndarray:
    """A sine of half amplitude, `float32 (channels, samples)`; in stereo the right channel is silent."""
    wave = 0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)
    return np.stack([wave] + [np.zeros_like(wave)] * (channels - 1)).astype(np.float32)


def grey_frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames whose grey level rises evenly from 20 to 220, so that a frame tells when it was shown."""
    return [np.full((height, width, 3), level, np.uint8) for level in np.linspace(20, 220, count).astype(np.uint8)]


def write_clip(
    path: Path,
    *,
    frames: list[np.ndarray] | None = None,
    times: list[float] | None = None,
    fps: int = 25,
    audio: np.ndarray | None = None,
    rate: int = 16000,
    options: dict[str, str] | None = None,
) -> Path:
    """
    Write H.264 and AAC into an mp4 (or PCM and FLAC by the file's ending).

    Args:
        frames: RGB pictures, or `None` for no video track.
        times: When each is shown, in seconds; evenly at `fps` if not given.
        audio: `float32 (channels, samples)`, or `None` for no audio track.
        rate: Of the audio, in Hz.
        options: Of the container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        if frames is not None:
            video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, 1000)
        if audio is not None:
            codec = {".wav": "pcm_s16le", ".flac": "flac"}.get(path.suffix, "aac")
            sound = container.add_stream(codec, rate=rate, layout="stereo" if len(audio) == 2 else "mono")
        if frames is not None:
            times = times or [index / fps for index in range(len(frames))]
            for picture, time in zip(frames, times, strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if audio is not None:
            pcm = (audio * 32767).astype(np.int16).T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="stereo" if len(audio) == 2 else "mono")
            frame.sample_rate, frame.pts = rate, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def talking_clip(path: Path, seconds: float = 1.0) -> Path:
    """An ordinary clip with both tracks."""
    return write_clip(path, frames=grey_frames(int(25 * seconds)), audio=tone(seconds, 16000))


def rotate_in_header(path: Path) -> Path:
    """Turn the picture by 90 degrees as phones do: in the display matrix of the mp4's track header."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    matrix = header + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def truncate(path: Path, fraction: float) -> Path:
    """Cut a file short."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def break_ravdess(root: Path) -> dict[str, str]:
    """
    Damage a RAVDESS folder of mp4 files in five ways.

    Returns:
        File, relative to the folder -> a word of the reason it should be skipped for.
    """
    clips = sorted(root.glob("Actor_01/*.mp4"))
    truncate(clips[0], 0.5)
    write_clip(clips[1], frames=grey_frames(20))
    clips[2].write_text("this is no video")
    empty = root / "Actor_02" / "03-01-02-01-02-02-02.wav"
    empty.write_bytes(b"")
    nameless = talking_clip(root / "Actor_02" / "holiday.mp4")
    reasons = {
        clips[0]: "not readable",
        clips[1]: "no audio track",
        clips[2]: "not readable",
        empty: "empty",
        nameless: "file name",
    }
    return {path.relative_to(root).as_posix(): word for path, word in reasons.items()}
