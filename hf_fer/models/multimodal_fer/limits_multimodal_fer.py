"""Limits on media files: the length of a clip and the size of its frames."""

from pathlib import Path
from typing import NamedTuple


class UnusableMediaError(ValueError):
    """The file cannot be used; `reason` says why, in words a person can act on."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class MediaLimits(NamedTuple):
    """
    Limits of a clip.

    A file of a few kilobytes can decode to hours of silence or to hundreds of megapixels, so these limits, and not the
    file's size, bound the memory that reading takes.

    Args:
        max_seconds: Length of a clip, from the first to the last moment of sound or video.
        max_pixels: Width times height of a frame; the default is 8K video.
    """

    max_seconds: float = 300.0
    max_pixels: int = 2**25

    def too_long(self, seconds: float) -> str | None:
        """Why a clip of that length is not read, or `None`."""
        if seconds <= self.max_seconds:
            return None
        return (
            f"it lasts {seconds:.0f} s or more, over max_seconds = {self.max_seconds:g}: cut it, raise max_seconds, "
            "or have the pipeline read it by windows (window_seconds)"
        )

    def too_large(self, width: int, height: int) -> str | None:
        """Why a frame of that size is not read, or `None`."""
        if width * height <= self.max_pixels:
            return None
        return (
            f"its pictures have {width} x {height} pixels, over max_pixels = {self.max_pixels}: make them smaller, or "
            "raise max_pixels"
        )


DEFAULT_LIMITS = MediaLimits()


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


__all__ = ["DEFAULT_LIMITS", "MediaLimits", "Reach", "UnusableMediaError"]
