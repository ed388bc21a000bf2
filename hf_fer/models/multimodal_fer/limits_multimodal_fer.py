"""How much of a file is read: bounds on its length and on the size of its pictures."""

from pathlib import Path
from typing import NamedTuple


class UnusableMediaError(ValueError):
    """A file that cannot be used, with the reason in words a person can act on."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class MediaLimits(NamedTuple):
    """
    What a clip may be. A file of a few kilobytes can stand for hours of silence or for hundreds of megapixels, so
    these, and not its size, bound the memory that reading it takes.

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
    How far a file's timestamps go, in seconds, held within the limits while they are read.

    Args:
        path: The file.
        limits: Its limits.
        by_windows: Whether it is read by windows. Then `max_seconds` bounds what lies between two timestamps, which
            is filled with silence or a standing picture, and not the file's length.
    """

    def __init__(self, path: str | Path, limits: MediaLimits, by_windows: bool = False):
        self.path = path
        self.limits = limits
        self.by_windows = by_windows
        self.end = 0.0

    def to(self, seconds: float) -> None:
        """Go on to a moment; raises UnusableMediaError where that is out of the limits."""
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
