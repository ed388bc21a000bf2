"""Turns rows of csr's tables into batches, and drops images that cannot be used."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torchvision.transforms.v2.functional import resize

from hf_fer.data.augment import EpochClock, seeded
from hf_fer.data.files import class_folders, visible_files
from hf_fer.data.loading import DataError, FileCheck
from hf_fer.data.manifest import LABEL_COLUMNS
from hf_fer.data.names import clean_names
from hf_fer.data.skipped import SkippedFile
from hf_fer.data.tables import PathFinder, TableFormat, find_column, need_column, read_table

from ..decoding_csr import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    UnusableImageError,
    image_facts,
    is_dicom,
    load_image,
)
from ..losses_csr import IGNORED
from ..modeling_csr import spatial_weights
from ..processing_csr import CsrProcessor
from .boxes import relative_boxes
from .concepts import GROUP_COLUMNS, IMAGE_COLUMNS, image_file
from .image_augment import ImageAugmentation, ImageAugmenter
from .preprocessing import ImageSettings

MARGIN = 4 / 3
"""Images are augmented at this multiple of the model's size, so that a crop need not be enlarged."""

MEMORY_BYTES = 256 * 2**20
"""Memory of a transform for decoded images at the size that it needs, so that a small data set is decoded once."""


@dataclass
class Steering:
    """
    Steers the model by an image's labelled boxes of any concept, in place of boxes drawn by a person.

    Args:
        boxes: Whether to look inside the boxes (`"positive"`), or outside (`"negative"`).
        grid: H and W of the model's maps.
    """

    boxes: Literal["positive", "negative"]
    grid: tuple[int, int]

    def weights(self, labelled: list[list[float]]) -> torch.Tensor:
        """
        The weights that the pipeline gives to boxes by default, `(H, W)`; 1 everywhere without boxes.

        Args:
            labelled: Boxes as (concept index, x0, y0, x1, y1), shares of the image.
        """
        boxes = [tuple(box) for _, *box in labelled]
        return spatial_weights(*((boxes, []) if self.boxes == "positive" else ([], boxes)), self.grid)


class ImageTransform:
    """
    Turns rows of paths into model inputs when they are read.

    A file that can no longer be read since it was checked is listed in `skipped_file`. Its example has no pixels and
    has targets of -100, which neither loss nor metrics count.

    Args:
        processor: Decodes, resizes and normalises.
        skipped_file: File that lists images which cannot be read.
        augmentation: Strengths, or `None` outside training.
        seed, clock: Seed and epoch, which determine a row's augmentation together with its index.
        steering: Adds `spatial_weights` from the rows' boxes.
    """

    def __init__(
        self,
        processor: CsrProcessor,
        skipped_file: SkippedFile,
        augmentation: ImageAugmentation | None = None,
        seed: int = 0,
        clock: EpochClock | None = None,
        steering: Steering | None = None,
    ):
        self.processor = processor
        self.skipped_file = skipped_file
        self.augmenter = augmentation and ImageAugmenter(augmentation)
        self.seed = seed
        self.clock = clock
        self.steering = steering
        self.memory: dict[str, torch.Tensor] = {}
        self.room = MEMORY_BYTES

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        examples = [self.example(row) for row in rows]
        columns = {
            name: [example[name] for example in examples] for name in ("pixel_values", "labels", "concept_labels")
        }
        if self.steering:
            columns["spatial_weights"] = [self.steering.weights(row["boxes"]) for row in rows]
        return columns

    def example(self, row: dict[str, Any]) -> dict[str, Any]:
        """Turns a row into `pixel_values (3, height, width)`, `labels` and `concept_labels`."""
        try:
            image = self.image(row["path"])
        except UnusableImageError as error:
            self.skipped_file.append([{"path": error.path, "reason": error.reason}])
            lost = [float(IGNORED)] * len(row["labels"]) if isinstance(row["labels"], list) else IGNORED
            ignored = [float(IGNORED)] * len(row["concept_labels"])
            return {"pixel_values": None, "labels": lost, "concept_labels": ignored}
        if self.augmenter:
            with seeded(self.seed, self.clock.epoch if self.clock else 0, row["index"]):
                image = self.processor.features(self.augmenter(image))
        return {"pixel_values": image, "labels": row["labels"], "concept_labels": row["concept_labels"]}

    def image(self, path: str) -> torch.Tensor:
        """The image before augmentation or, without augmentation, its features; kept while memory lasts."""
        if path not in self.memory:
            image = self.processor.load_image(path)
            image = self.shrunk(image) if self.augmenter else self.processor.features(image)
            if image.nbytes > self.room:
                return image
            self.room -= image.nbytes
            self.memory[path] = image
        return self.memory[path]

    def shrunk(self, image: torch.Tensor) -> torch.Tensor:
        """Resizes a large image to `MARGIN` times the model's size, since augmenting more pixels costs time."""
        size = self.processor.image_processor.size
        target = [round(MARGIN * size["height"]), round(MARGIN * size["width"])]
        if image.shape[1] <= target[0] or image.shape[2] <= target[1]:
            return image
        return resize(image, target, antialias=True)


class ImageCollator:
    """Stacks examples; zeros stand in for an image that could not be read."""

    def __init__(self, processor: CsrProcessor):
        size = processor.image_processor.size
        self.empty = torch.zeros(3, size["height"], size["width"])

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = [self.empty if example["pixel_values"] is None else example["pixel_values"] for example in examples]
        batch = {
            "pixel_values": torch.stack(pixels),
            "labels": torch.tensor([example["labels"] for example in examples]),
            "concept_labels": torch.tensor([example["concept_labels"] for example in examples]),
        }
        if "spatial_weights" in examples[0]:
            batch["spatial_weights"] = torch.stack([example["spatial_weights"] for example in examples])
        return batch


def unusable_reason(path: str, wanted: str, max_pixels: int = MAX_PIXELS) -> str | None:
    """Why an image cannot be loaded as training will load it, or `None`."""
    try:
        load_image(path, max_pixels)
    except UnusableImageError as error:
        return error.reason
    return None


def image_check(settings: ImageSettings, workers: int = 4) -> FileCheck:
    """The check that images can be loaded as training will load them."""
    return FileCheck(partial(unusable_reason, max_pixels=settings.max_pixels), settings.check_key, workers)


def is_image(path: Path) -> bool:
    """Whether a file has the suffix of an image or begins like a DICOM file."""
    return path.suffix.lower() in IMAGE_SUFFIXES or is_dicom(path)


def inspect_images(path: str, form: TableFormat | None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """What `data.check` shows of a folder or table of images; see `Task.inspect`."""
    place = Path(path)
    if place.is_dir():
        rows = class_folders(place, is_image)
        if rows is None:
            rows = pd.DataFrame({"path": [str(file) for file in visible_files(place) if is_image(file)]})
    else:
        rows = table_images(place, form)
    if rows.empty:
        raise DataError(f"{path}: no images found.")
    reasons = image_check(ImageSettings()).reasons([(p, "image") for p in rows["path"]])
    return rows, [{"path": p, "reason": why} for p, why in zip(rows["path"], reasons, strict=True) if why]


def table_images(place: Path, form: TableFormat | None) -> pd.DataFrame:
    """The images of a table, each once, with `label`, `group` and `split` where columns have their usual names."""
    table = read_table(place, form)
    names = table[need_column(table, IMAGE_COLUMNS, "image", str(place))].dropna().drop_duplicates()
    finder, rows = PathFinder(place.parent), table.loc[names.index]
    usual = {"label": LABEL_COLUMNS, "group": GROUP_COLUMNS, "split": ("split",)}
    found = {role: clean_names(rows[name]) for role, known in usual.items() if (name := find_column(rows, known))}
    return rows.assign(path=[image_file(finder, name, IMAGE_SUFFIXES) for name in names], **found)


def drop_unusable(
    rows: pd.DataFrame, concepts: list[str], workers: int, settings: ImageSettings
) -> tuple[pd.DataFrame, list[dict[str, str]], str | None]:
    """
    Leave out images that do not decode and those with a box outside the image.

    Returns:
        The remaining rows, with boxes as shares of their image; the skipped files; a note where bit depths differ.
    """
    reasons = image_check(settings, workers).reasons([(path, "image") for path in rows["path"]])
    boxes, kept, skipped, bits = [], [], [], {}
    columns = (rows["image"], rows["path"], rows["boxes"], reasons)
    for place, (image, path, own, reason) in enumerate(zip(*columns, strict=True)):
        if reason is None:
            try:
                facts = image_facts(path, settings.max_pixels)
                boxes.append(relative_boxes(own, facts.width, facts.height, concepts))
                kept.append(place)
                bits.setdefault(facts.bits, []).append(image)
                continue
            except UnusableImageError as error:
                reason = error.reason
            except ValueError as error:
                reason = str(error)
        skipped.append({"path": path, "reason": reason})
    rows = rows.iloc[kept]
    return rows.assign(boxes=pd.Series(boxes, index=rows.index, dtype=object)), skipped, depth_note(bits)


def depth_note(bits: dict[int, list[str]]) -> str | None:
    """A note where images have several bit depths; each image is scaled by its own."""
    if len(bits) < 2:
        return None
    counts = ", ".join(f"{len(names)} of {depth} bits (such as {names[0]})" for depth, names in sorted(bits.items()))
    return f"The images differ in bit depth: {counts}. Each was scaled by its own; make sure they are comparable."
