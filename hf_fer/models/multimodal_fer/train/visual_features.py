"""Visual features that replace video files: matches them with clips, and computes their mean and deviation."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from hf_fer.data.loading import DataError, optional_column

from . import ravdess


def performance(name: str) -> str:
    """A clip's name without RAVDESS's modality code, so that features of a video match the sound of the same take."""
    return name.partition("-")[2] if ravdess.NAME.fullmatch(name) else name


def attach(rows: pd.DataFrame, path: str | Path, names: Iterable[str]) -> pd.DataFrame:
    """
    Replace video files by features of an archive.

    Args:
        rows: Rows with `video` and `audio`, paths or `None`.
        path: The archive, a `.npz`.
        names: Names of its clips, which are the files' names without folder and suffix.

    Returns:
        The rows with `archive.npz::clip` in `video`, or `None` where the archive has no such clip.

    Raises:
        DataError: two files of one name would get the same features.
    """
    known = {performance(name): name for name in names}
    files = [str(video or audio) for video, audio in zip(rows["video"], rows["audio"], strict=True)]
    clips = [performance(Path(file).stem) for file in files]
    first: dict[str, str] = {}
    for clip, file in zip(clips, files, strict=True):
        if clip in known and first.setdefault(clip, file) != file:
            raise DataError(
                f"{path}: {known[clip]!r} would be the features of {first[clip]} and of {file}. Give the files "
                "different names, or name the features in the manifest's 'video' column: archive.npz::clip."
            )
    references = (f"{path}::{known[clip]}" if clip in known else None for clip in clips)
    return rows.assign(video=optional_column(references, rows.index))


def statistics(sources: Iterable[str], load: Callable[[str], np.ndarray]) -> tuple[list[float], list[float], int]:
    """
    Mean and standard deviation of each feature over all frames, and the number of tokens per frame.

    Args:
        sources: The training clips' features.
        load: Function that loads `(frames, tokens, dim)` of a source.

    Returns:
        Means `(dim,)`, standard deviations `(dim,)`, which are 1 for a constant feature, and tokens per frame.
    """
    count, total, squares, tokens = 0, 0.0, 0.0, 1
    for source in sources:
        features = load(source).astype(np.float64)
        tokens = features.shape[1]
        flat = features.reshape(-1, features.shape[-1])
        count, total, squares = count + len(flat), total + flat.sum(axis=0), squares + (flat**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.tolist(), np.where(std > 1e-6, std, 1.0).tolist(), tokens
