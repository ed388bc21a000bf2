"""Reads images without concept labels from a folder with one subfolder per class."""

from collections.abc import Callable
from pathlib import Path

from hf_fer.data.files import class_folders
from hf_fer.data.loading import DataError

from .concepts import ConceptData


def read_class_images(folder: Path, wanted: Callable[[Path], bool]) -> ConceptData:
    """
    Images in one subfolder per class, without concept labels; see `files.class_folders`.

    Raises:
        DataError: fewer than two subfolders have images.
    """
    rows = class_folders(folder, wanted)
    if rows is None:
        raise DataError(
            f"{folder}: expected images of at least two classes, one subfolder per class, like {folder}/benign/1.png. "
            "Give such a folder, or a table."
        )
    classes = sorted(set(rows["label"]))
    nothing = [[] for _ in rows.index]
    rows = rows.assign(
        image=[Path(path).relative_to(folder).as_posix() for path in rows["path"]],
        targets=rows["label"].map({name: index for index, name in enumerate(classes)}),
        concept_labels=nothing,
        boxes=nothing,
    )
    return ConceptData(rows, [], classes, multi_label=False, knows_concepts=False)
