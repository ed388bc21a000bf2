"""Words and segments with times as lines to read: SubRip (SRT) and WebVTT."""

from collections.abc import Sequence
from typing import Any

LINE = 42
"""Characters of a line, as broadcasters have it."""
PAUSE, LONGEST = 0.8, 6.0
"""Seconds of silence that end a line, and that a line lasts at most."""


def lines_of_words(words: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Words, each with `start`, `end` and `label`, as lines that are short enough to be read."""
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
    """Lines, each with `start`, `end` in seconds and `label`, as SubRip."""
    return _blocks(lines, ",")


def vtt(lines: Sequence[dict[str, Any]]) -> str:
    """Lines as WebVTT."""
    return f"WEBVTT\n\n{_blocks(lines, '.')}"


def _blocks(lines: Sequence[dict[str, Any]], mark: str) -> str:
    return "\n".join(
        f"{number}\n{clock(line['start'], mark)} --> {clock(line['end'], mark)}\n{line['label']}\n"
        for number, line in enumerate(lines, 1)
    )


def clock(seconds: float, mark: str) -> str:
    """Hours, minutes, seconds and milliseconds, which `mark` parts from the seconds."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{thousandths:03d}"
