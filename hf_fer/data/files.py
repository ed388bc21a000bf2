"""Which files of a folder are data: endings of sound and video, hidden files passed over, classes by folder."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from hf_fer.data.loading import SPLIT_ALIASES, SPLITS
from hf_fer.data.names import clean_name

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


def class_folders(folder: str | Path, wanted: Callable[[Path], bool]) -> pd.DataFrame | None:
    """
    The files of a folder with one subfolder per class, or one per split with the classes' folders in it.

    Args:
        folder: Holds the classes' folders, with files at any depth; what is hidden is left aside.
        wanted: Whether a file is one of the data's.

    Returns:
        `label` and `path` of each file, and `split` where the folders are named so; `None` without two classes.
    """
    folder = Path(folder)
    found = [(path.relative_to(folder).parts, str(path)) for path in visible_files(folder) if wanted(path)]
    by_split = bool(found) and {parts[0].lower() for parts, _ in found} <= {*SPLITS, *SPLIT_ALIASES}
    found = [(parts, path) for parts, path in found if len(parts) > 1 + by_split]
    rows = pd.DataFrame({"label": [clean_name(parts[by_split]) for parts, _ in found], "path": [p for _, p in found]})
    if by_split:
        rows["split"] = [SPLIT_ALIASES.get(parts[0].lower(), parts[0].lower()) for parts, _ in found]
    return rows if rows["label"].nunique() > 1 else None
