"""Segments with times as SubRip (.srt) and WebVTT (.vtt)."""

from pathlib import Path
from typing import Any

from hf_fer.task.predictor import Predictor

SUBTITLES = (".srt", ".vtt")
LINE = 42
"""Characters of a line, as broadcasters have it."""
PAUSE, LONGEST = 0.8, 6.0
"""Seconds of silence that end a line, and that a line lasts at most."""


def write_subtitles(path: Path, row: dict[str, Any], predictor: type[Predictor]) -> None:
    """Write one recording's segments."""
    cues = lines_of_words(row["segments"]) if predictor.joins_segments else row["segments"]
    mark = "," if path.suffix.lower() == ".srt" else "."
    blocks = [
        f"{number}\n{clock(cue['start'], mark)} --> {clock(cue['end'], mark)}\n{cue['label']}\n"
        for number, cue in enumerate(cues, 1)
    ]
    head = [] if mark == "," else ["WEBVTT\n"]
    path.write_text("\n".join([*head, *blocks]), encoding="utf-8")


def lines_of_words(words: list[dict[str, Any]]) -> list[dict[str, Any]]:
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


def clock(seconds: float, mark: str) -> str:
    """Hours, minutes, seconds and milliseconds, which `mark` parts from the seconds."""
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{thousandths:03d}"
