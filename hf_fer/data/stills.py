"""Single pictures that lie inside a table or an archive: they are written to the cache once, as PNG files.

FER2013 (Goodfellow et al. 2013, arXiv 1307.0414) is given as a CSV whose column `pixels` holds the grey values of one
picture per row; other sets come as a NumPy archive of `images` and `labels`.
"""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from hf_fer.data.loading import DataError, cache_dir, write_atomically
from hf_fer.data.tables import find_column

ARCHIVE_ENDING = ".npz"
PIXEL_COLUMNS = ("pixels",)
FER2013_COLUMNS = {"emotion", "pixels", "Usage"}
FER2013_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FER2013_SPLITS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}


def has_pixels(rows: pd.DataFrame) -> bool:
    """Whether a table holds pictures as text in a column `pixels`."""
    return find_column(rows, PIXEL_COLUMNS) is not None


def from_pixels(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """
    A table whose column `pixels` is replaced by `video`, the file of each picture.

    Args:
        rows: `pixels` has the grey values of a square picture, row by row, separated by blanks. A table with the
            columns of FER2013 gets its class names and splits.
        source: Name of the table, for messages.

    Raises:
        DataError: a row's values are no square picture of whole numbers from 0 to 255, or its class or split is none
            of FER2013's; the message names the row.
    """
    column = find_column(rows, PIXEL_COLUMNS)
    files = [write_png(square(value, f"{source}: row {index}")) for index, value in enumerate(rows[column], 1)]
    columns = set(rows)
    rows = rows.drop(columns=column).assign(video=files)
    if columns >= FER2013_COLUMNS:
        names = dict(zip(map(str, range(len(FER2013_CLASSES))), FER2013_CLASSES, strict=True))
        rows["label"] = renamed(rows["emotion"], names, source)
        rows["split"] = renamed(rows["Usage"], FER2013_SPLITS, source)
        rows = rows.drop(columns=["emotion", "Usage"])
    return rows


def renamed(values: pd.Series, names: dict[str, str], source: str) -> pd.Series:
    """Values by their names; raises `DataError` for one that has none."""
    found = values.map(names)
    if found.isna().any():
        row = int(found.isna().to_numpy().argmax())
        known = ", ".join(names)
        raise DataError(f"{source}: row {row + 1} has {values.name} {values.iloc[row]!r}; FER2013 has {known}.")
    return found


def square(pixels: str | None, where: str) -> np.ndarray:
    """Grey values in text -> `uint8 (side, side)`; raises `DataError` if they are no square picture."""
    try:
        values = np.array((pixels or "").split(), dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{where}: pixels must be whole numbers from 0 to 255, separated by blanks.") from error
    side = round(len(values) ** 0.5)
    if not side or side * side != len(values):
        raise DataError(f"{where}: has {len(values)} pixels, which is no square picture.")
    if values.min() < 0 or values.max() > 255:
        raise DataError(f"{where}: has a pixel of {values[(values < 0) | (values > 255)][0]}; expected 0 to 255.")
    return values.astype(np.uint8).reshape(side, side)


def read_archive(path: Path) -> pd.DataFrame:
    """
    The pictures of an archive as rows of `video`, `label` and, where it has them, `split` and `group`.

    Args:
        path: `.npz` with `images`, `uint8 (n, height, width)` or `(n, height, width, 3)`, and `labels (n,)`: class
            names, or their places in `classes`. `split` and `group` are `(n,)`.

    Raises:
        DataError: it is no such archive.
    """
    if not path.is_file():
        raise DataError(f"{path}: file not found.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no archive of NumPy arrays ({error}).") from error
    if lacking := {"images", "labels"} - arrays.keys():
        raise DataError(
            f"{path}: has no array {' and no '.join(sorted(lacking))}; it has {', '.join(sorted(arrays))}."
        )
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[-1] == 3)):
        raise DataError(
            f"{path}: images must be uint8 (n, height, width) or (n, height, width, 3), got {images.dtype} "
            f"{images.shape}."
        )
    columns = {name: arrays[name] for name in ("labels", "split", "group") if name in arrays}
    for name, values in columns.items():
        if values.shape != (len(images),):
            raise DataError(f"{path}: {name} must be ({len(images)},), as there are images, got {values.shape}.")
    if "classes" in arrays:
        classes = arrays["classes"]
        outside = (labels < 0) | (labels >= len(classes)) if labels.dtype.kind in "iu" else np.ones(len(labels), bool)
        if outside.any():
            row = int(outside.argmax())
            raise DataError(
                f"{path}: labels[{row}] is {labels[row]}, which is no place in the {len(classes)} classes."
            )
        labels = classes[labels]
    rows = {"label": labels.astype(str), "video": [write_png(image) for image in images]}
    rows |= {name: columns[name].astype(str) for name in ("split", "group") if name in columns}
    return pd.DataFrame(rows).astype(object)


def write_png(image: np.ndarray) -> str:
    """The file in the cache that has a picture, `uint8 (height, width)` or `(height, width, 3)`; written once."""
    digest = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
    target = cache_dir("stills", digest[:2]) / f"{digest}.png"
    if not target.exists():
        content = io.BytesIO()
        Image.fromarray(image).save(content, format="PNG")
        write_atomically(target, content.getvalue())
    return str(target)
