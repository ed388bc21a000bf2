"""Finds data files in a folder: by endings of sound and video, without hidden files, with classes by subfolder."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from hf_fer.data.loading import SPLIT_ALIASES, SPLITS, DataError
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
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
CLIP_SUFFIXES = (*VIDEO_SUFFIXES, *SOUND_SUFFIXES)
"""Lower-case endings of files that FFmpeg decodes."""


def visible_files(folder: str | Path, *, any_name: bool = False) -> list[Path]:
    """
    Sorted files at any depth below a folder.

    Hidden files and the content of hidden folders are skipped, such as the `._` file that macOS writes beside each
    file, and so is the folder `__MACOSX` of its archives.

    Args:
        folder: Folder to search.
        any_name: Whether names that are not UTF-8 are listed; no table of a data set can store them.

    Raises:
        DataError: the name of a file is not UTF-8.
    """
    folder = Path(folder)
    found = sorted(path for path in folder.rglob("*") if not is_hidden(path.relative_to(folder)) and path.is_file())
    wrong = [] if any_name else [path for path in found if not _is_utf8(str(path.relative_to(folder)))]
    if wrong:
        shown = str(wrong[0]).encode("utf-8", "backslashreplace").decode()
        raise DataError(
            f"{shown}: its name or folder is not UTF-8 ({len(wrong)} such files). Rename it, as "
            f"`convmv -r -f latin1 -t utf8 --notest {folder}` does where the names are Latin-1."
        )
    return found


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python keeps such bytes as lone surrogates
        return False
    return True


def is_hidden(path: Path) -> bool:
    """Whether a relative path is hidden, in a hidden folder, or in the folder `__MACOSX` of an archive."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def class_folders(folder: str | Path, wanted: Callable[[Path], bool]) -> pd.DataFrame | None:
    """
    List the files of a folder with one subfolder per class, or one subfolder per split that holds the class folders.

    Args:
        folder: Folder to search; files may be at any depth below a class folder, and hidden ones are skipped.
        wanted: Whether a file belongs to the data.

    Returns:
        `label` and `path` of each file, and `split` if the subfolders are named by split; `None` with fewer than two
        classes.
    """
    folder = Path(folder)
    found = [(path.relative_to(folder).parts, str(path)) for path in visible_files(folder) if wanted(path)]
    by_split = bool(found) and {parts[0].lower() for parts, _ in found} <= {*SPLITS, *SPLIT_ALIASES}
    found = [(parts, path) for parts, path in found if len(parts) > 1 + by_split]
    rows = pd.DataFrame({"label": [clean_name(parts[by_split]) for parts, _ in found], "path": [p for _, p in found]})
    if by_split:
        rows["split"] = [SPLIT_ALIASES.get(parts[0].lower(), parts[0].lower()) for parts, _ in found]
    return rows if rows["label"].nunique() > 1 else None
