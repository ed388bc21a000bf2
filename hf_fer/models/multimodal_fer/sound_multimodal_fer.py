"""Places decoded sound on a clock, as mono samples of one rate."""

import av
import numpy as np
from av.audio.frame import AudioFrame

SOUND_JITTER = 0.05
"""Seconds by which a timestamp of sound may run ahead of the samples before it counts as a hole."""


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


__all__ = ["SoundOnClock"]
