"""Visual features computed elsewhere, in the place of video files: which clip has which, and how they are spread."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from hf_fer.data.loading import DataError, optional_column

from . import ravdess


def performance(name: str) -> str:
    """A clip's name without RAVDESS's modality code, so that features of a video find the sound of the same take."""
    return name.partition("-")[2] if ravdess.NAME.fullmatch(name) else name


def attach(rows: pd.DataFrame, path: str | Path, names: Iterable[str]) -> pd.DataFrame:
    """
    Put features of an archive in the place of video files.

    Args:
        rows: With `video` and `audio`, paths or `None`.
        path: The archive, a `.npz`.
        names: The clips in it, named like the files without folder and ending.

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
                f"{path}: {known[clip]!r} would be the features of {first[clip]} and of {file}. Give the files names "
                "of their own, or name the features in the manifest's 'video' column: archive.npz::clip."
            )
    references = (f"{path}::{known[clip]}" if clip in known else None for clip in clips)
    return rows.assign(video=optional_column(references, rows.index))


def statistics(sources: Iterable[str], load: Callable[[str], np.ndarray]) -> tuple[list[float], list[float], int]:
    """
    Mean and standard deviation of each feature over all frames, and the tokens per frame.

    Args:
        sources: The training clips' features.
        load: Gives `(frames, tokens, dim)` of each.

    Returns:
        Means `(dim,)`, standard deviations `(dim,)`, 1 where a feature never changes, and tokens.
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
