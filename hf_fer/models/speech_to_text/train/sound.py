"""Measures the sound of a file while it is decoded, in memory that does not grow with its length."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from hf_fer.data.progress import progress

from ..sound_speech_to_text import SOUND_JITTER, clock_zero, picture_track, sound_track

FULL_SCALE = 0.999
"""Absolute value from which a sample counts as clipped."""
SILENCE = 10 ** (-60 / 20)
"""Root mean square, relative to full scale, below which 20 ms count as silent."""
WINDOW_SECONDS = 0.02


class SoundError(ValueError):
    """The file's sound cannot be used; the message says why."""


@dataclass(frozen=True)
class SoundFacts:
    """
    Measurements of a recording's sound.

    Args:
        rate: Sampling rate in Hz.
        channels: Number of stored channels.
        seconds: Length of the sound on the container's clock, with holes and a late beginning.
        clipped: Share of samples at full scale.
        silent: Share of windows of 20 ms below -60 dB of full scale.
        peak: Largest absolute value; 1 is full scale.
        digest: Digest of the samples, equal for the same sound in WAV and FLAC.
    """

    rate: int
    channels: int
    seconds: float
    clipped: float
    silent: float
    peak: float
    digest: str


def sound_facts(path: str | Path) -> SoundFacts:
    """
    Decode a file's first sound track and measure it.

    Raises:
        SoundError: the file does not exist, is empty, does not decode, or has no sound.
    """
    path = Path(path)
    if not path.is_file():
        raise SoundError("file not found")
    if path.stat().st_size == 0:
        raise SoundError("file is empty (0 bytes)")
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise SoundError("no audio track")
            return _measure(container)
    except (FFmpegError, OSError) as error:
        raise SoundError(f"audio does not decode ({getattr(error, 'strerror', None) or error})") from error


def _measure(container: av.container.InputContainer) -> SoundFacts:
    """Measure the sound on the container's clock, as `load_audio` places it: holes and a late start are silence."""
    measured, rate, channels = _Measure(), 0, 0
    resampler, zero, stop = None, clock_zero(container), 0.0
    sound, picture = sound_track(container), picture_track(container)
    for packet in container.demux([track for track in (sound, picture) if track is not None]):
        if packet.stream is picture:
            if packet.pts is not None and not packet.is_discard:
                stop = max(stop, float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero)
            continue
        for frame in packet.decode():
            kind = (frame.sample_rate, frame.layout.nb_channels)
            if resampler is None or kind != (rate, channels):
                if resampler is not None:
                    raise SoundError(
                        f"rate or channels change within the file ({rate} Hz x {channels} to {kind[0]} x {kind[1]})"
                    )
                rate, channels = kind
                resampler = av.AudioResampler(format="flt")
            if frame.time is not None:
                measured.reach(frame.time - zero, rate)
            for converted in resampler.resample(frame):
                measured.add(converted.to_ndarray().reshape(-1, channels), rate)
    if rate:
        measured.reach(stop, rate)
    return measured.facts(rate, channels)


class _Measure:
    """Running sums over the decoded samples."""

    def __init__(self) -> None:
        self.samples = self.clipped = self.windows = self.silent = 0
        self.peak = self.holes = 0.0
        self.hash = hashlib.sha256()
        self.rest = np.zeros(0, np.float32)

    def reach(self, time: float, rate: int) -> None:
        """Count the silence up to a moment on the clock, in seconds, that no sample fills."""
        hole = time - self.holes - self.samples / rate
        if hole > SOUND_JITTER:
            self.holes += hole
            windows = int(hole / WINDOW_SECONDS)
            self.windows, self.silent = self.windows + windows, self.silent + windows

    def add(self, samples: np.ndarray, rate: int) -> None:
        """Add samples `(samples, channels)`; raises SoundError if some are not finite."""
        if not np.isfinite(samples).all():
            raise SoundError("audio has samples that are not finite (NaN or infinity)")
        absolute = np.abs(samples)
        self.samples += len(samples)
        self.clipped += int((absolute.max(axis=1, initial=0) >= FULL_SCALE).sum())
        self.peak = max(self.peak, float(absolute.max(initial=0)))
        self.hash.update(np.round(samples * 32767).astype(np.int32).tobytes())
        mono = np.concatenate([self.rest, samples.mean(axis=1)])
        width = max(int(rate * WINDOW_SECONDS), 1)
        whole = len(mono) // width * width
        power = np.square(mono[:whole].reshape(-1, width)).mean(axis=1)
        self.windows += len(power)
        self.silent += int((power < SILENCE**2).sum())
        self.rest = mono[whole:]

    def facts(self, rate: int, channels: int) -> SoundFacts:
        """The measurements; raises SoundError if there was no sample."""
        if not self.samples:
            raise SoundError("audio track has no samples")
        silent = self.silent / self.windows if self.windows else float(self.peak < SILENCE)
        return SoundFacts(
            rate,
            channels,
            self.samples / rate + self.holes,
            self.clipped / self.samples,
            silent,
            self.peak,
            self.hash.hexdigest(),
        )


def all_sound_facts(paths: list[str], workers: int = 4) -> list[SoundFacts | str]:
    """`sound_facts` of each file, or the reason why it has none; FFmpeg decodes in threads without Python's lock."""

    def one(path: str) -> SoundFacts | str:
        try:
            return sound_facts(path)
        except SoundError as error:
            return str(error)

    with ThreadPoolExecutor(workers) as pool:
        return list(progress(pool.map(one, paths), "Checking sound", len(paths)))
