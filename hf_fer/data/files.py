"""Which files of a folder are data: endings of sound and video, and hidden files passed over."""

from pathlib import Path

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts", ".avi", ".mkv"),
    *(".webm", ".ogv", ".flv", ".f4v", ".wmv", ".asf", ".mxf", ".dv"),
)
SOUND_SUFFIXES = (
    *(
        ".wav",
        ".w64",
        ".flac",
        ".mp3",
        ".mp2",
        ".ogg",
        ".oga",
        ".opus",
        ".spx",
        ".m4a",
        ".aac",
        ".wma",
        ".amr",
        ".aif",
    ),
    *(".aiff", ".aifc", ".au", ".caf", ".mka", ".ac3", ".wv", ".ape", ".weba"),
)
CLIP_SUFFIXES = (*VIDEO_SUFFIXES, *SOUND_SUFFIXES)
"""Endings, in lower case, of what FFmpeg decodes."""


def visible_files(folder: str | Path) -> list[Path]:
    """
    Files at any depth below a folder, sorted.

    Hidden files and what is in hidden folders are passed over, such as the `._` twin that macOS writes beside each
    file, and so is `__MACOSX`, where its archives put them.
    """
    folder = Path(folder)
    return sorted(path for path in folder.rglob("*") if not _is_hidden(path.relative_to(folder)) and path.is_file())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
