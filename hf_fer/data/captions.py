"""Subtitles in SubRip (SRT) and WebVTT format from words or segments with times."""

from collections.abc import Sequence
from typing import Any

LINE = 42
"""Most characters of a line, as is usual in broadcasting."""
PAUSE, LONGEST = 0.8, 6.0
"""Seconds: a longer pause starts a new line, and no line lasts longer than `LONGEST`."""


def lines_of_words(words: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join words, each with `start`, `end` (seconds) and `label`, to lines of at most `LINE` characters."""
    lines: list[dict[str, Any]] = []
    for word in words:
        line = lines[-1] if lines else None
        if (
            line
            and word["start"] - line["end"] <= PAUSE
            and word["end"] - line["start"] <= LONGEST
            and len(line["label"]) + 1 + len(word["label"]) <= LINE
        ):
            line |= {"end": word["end"], "label": f"{line['label']} {word['label']}"}
        else:
            lines.append({name: word[name] for name in ("start", "end", "label")})
    return lines


def srt(lines: Sequence[dict[str, Any]]) -> str:
    """Lines, each with `start`, `end` (seconds) and `label`, as SubRip text."""
    return _blocks(lines, ",")


def vtt(lines: Sequence[dict[str, Any]]) -> str:
    """Lines, each with `start`, `end` (seconds) and `label`, as WebVTT text."""
    return f"WEBVTT\n\n{_blocks(lines, '.')}"


def _blocks(lines: Sequence[dict[str, Any]], mark: str) -> str:
    return "\n".join(
        f"{number}\n{clock(line['start'], mark)} --> {clock(line['end'], mark)}\n{line['label']}\n"
        for number, line in enumerate(lines, 1)
    )


def clock(seconds: float, mark: str) -> str:
    """A time as hours, minutes, seconds and milliseconds, with `mark` between seconds and milliseconds."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{thousandths:03d}"
