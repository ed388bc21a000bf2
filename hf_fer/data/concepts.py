"""Images with concepts, classes and boxes: a table with a row per image, or VinDr-CXR's with a row per finding."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_fer.arguments import nearest
from hf_fer.data.loading import DataError, normalize_splits, read_table

READER_AGREEMENTS = ("any", "majority", "soft")
IMAGE_COLUMNS = ("image", "file", "path", "image_id")
GROUP_COLUMNS = ("group", "patient", "patient_id")
BOX_COLUMNS = ["x_min", "y_min", "x_max", "y_max"]
FINDING_COLUMNS = {"image_id", "class_name", *BOX_COLUMNS}
NO_FINDING = "No finding"


@dataclass
class ConceptFormat:
    """
    What the columns of a table mean.

    Args:
        image_folder: Where the images are; the table's own folder if unset.
        concepts: Concept name -> `column` (values in [0, 1]) or `column=value|value` (there where the column has one
            of the values). For VinDr-CXR the findings to take, all if empty.
        class_columns: One column with class names, or several of 0 and 1, which make classes multi-label.
        boxes: Table of boxes: image, concept, x_min, y_min, x_max, y_max, in pixels.
        image_labels: VinDr-CXR's table of labels per image and reader.
        reader_agreement: `any` reader, the `majority` (half or more) of an image's readers, or `soft`: their share.
    """

    image_folder: str | None = None
    concepts: dict[str, str] = field(default_factory=dict)
    class_columns: list[str] = field(default_factory=list)
    boxes: str | None = None
    image_labels: str | None = None
    reader_agreement: str = "majority"


@dataclass
class ConceptData:
    """
    Args:
        rows: One row per image: `path`, `label` (class names, joined by `+`), `targets` (class index, or one share per
            class where they are multi-label), `concept_labels` (one share per concept), `boxes` (concept index, x0,
            y0, x1, y1 in pixels), and `group` and `split` where the source has them.
        concepts, classes: Names in index order.
        multi_label: Whether an image may have several classes.
    """

    rows: pd.DataFrame
    concepts: list[str]
    classes: list[str]
    multi_label: bool


def read_concepts(path: str | Path, form: ConceptFormat, suffixes: tuple[str, ...]) -> ConceptData:
    """
    Read a table of images with concepts.

    Args:
        path: CSV, TSV, JSONL or Parquet; with the columns of VinDr-CXR's annotations it is read as those.
        form: What its columns mean.
        suffixes: Endings of image files, tried where an image's name has none.

    Raises:
        DataError: it does not parse, lacks a column, or has a value out of range, naming the row.
    """
    table = read_table(path)
    reader = read_findings if set(table) >= FINDING_COLUMNS else read_wide
    data = reader(table, str(path), form)
    folder = Path(form.image_folder or Path(path).parent)
    data.rows["path"] = [str(image_file(folder, str(name), suffixes)) for name in data.rows["image"]]
    if "split" in data.rows:
        data.rows["split"] = normalize_splits(data.rows["split"], str(path))
    return data


def image_file(folder: Path, name: str, suffixes: tuple[str, ...]) -> Path:
    """The file of an image's name, which may lack its ending."""
    path = folder / name
    if path.suffix.lower() in suffixes:
        return path
    found = (folder / f"{name}{suffix}" for suffix in suffixes)
    return next((candidate for candidate in found if candidate.is_file()), path)


def column_of(table: pd.DataFrame, name: str, source: str) -> pd.Series:
    """A column; raises DataError with the nearest name where there is none."""
    if name not in table:
        raise DataError(
            f"{source}: no column {name!r}{nearest(name, map(str, table))} It has {sorted(map(str, table))}."
        )
    return table[name]


def first_column(table: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    """The first of `names` that is a column."""
    return next((name for name in names if name in table), None)


def shares(values: pd.Series, what: str, source: str) -> np.ndarray:
    """A column of numbers in [0, 1]; raises DataError with the row of the first that is not one."""
    numbers = pd.to_numeric(values, errors="coerce")
    bad = ~numbers.between(0, 1)
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise DataError(
            f"{source}: row {row + 1} has {str(values.iloc[row])!r} for {what}; give a number from 0 to 1, or a rule "
            f"like '{values.name}=value|value'."
        )
    return numbers.to_numpy(dtype=float)


def concept_values(table: pd.DataFrame, rule: str, source: str) -> np.ndarray:
    """What `column` or `column=value|value` says of each row, in [0, 1]."""
    name, _, accepted = rule.partition("=")
    values = column_of(table, name, source)
    if not accepted:
        return shares(values, f"concept column {name!r}", source)
    text = values.map(lambda value: str(int(value)) if isinstance(value, float) and value.is_integer() else str(value))
    known = set(accepted.split("|"))
    if not known & set(text):
        raise DataError(f"{source}: column {name!r} has none of {sorted(known)}; it has {sorted(set(text))[:20]}.")
    return text.isin(known).to_numpy(dtype=float)


def class_targets(table: pd.DataFrame, columns: list[str], source: str) -> tuple[list[Any], list[str], list[str]]:
    """Each row's target, each row's label as text, and the class names."""
    if not columns:
        raise DataError(f"{source}: which columns hold the classes? Set class_columns; it has {sorted(table)}.")
    if len(columns) > 1:
        values = np.stack([shares(column_of(table, name, source), f"class {name!r}", source) for name in columns], 1)
        labels = ["+".join(np.array(columns)[row >= 0.5]) or "none" for row in values]
        return values.tolist(), labels, list(columns)
    values = column_of(table, columns[0], source)
    if values.isna().any():
        raise DataError(f"{source}: row {int(values.isna().to_numpy().argmax()) + 1} has no {columns[0]!r}.")
    labels = values.astype(str)
    classes = sorted(set(labels))
    return [classes.index(name) for name in labels], list(labels), classes


def read_wide(table: pd.DataFrame, source: str, form: ConceptFormat) -> ConceptData:
    """A table with a row per image; see `ConceptFormat`."""
    image = first_column(table, IMAGE_COLUMNS)
    if image is None:
        raise DataError(f"{source}: no image column; name one of {IMAGE_COLUMNS}. It has {sorted(map(str, table))}.")
    if not form.concepts:
        raise DataError(f"{source}: which columns hold concepts? Set concepts; it has {sorted(map(str, table))}.")
    repeated = table[image].duplicated()
    if repeated.any():
        raise DataError(f"{source}: image {table[image][repeated].iloc[0]!r} has more than one row.")
    values = np.stack([concept_values(table, rule, source) for rule in form.concepts.values()], axis=1)
    targets, labels, classes = class_targets(table, form.class_columns, source)
    concepts = list(form.concepts)
    rows = pd.DataFrame(
        {
            "image": table[image].astype(str),
            "label": labels,
            "targets": targets,
            "concept_labels": values.tolist(),
            "boxes": read_boxes(form.boxes, table[image].astype(str), concepts),
        }
    )
    group = first_column(table, GROUP_COLUMNS)
    if group:
        rows["group"] = table[group].astype(str)
    if "split" in table:
        rows["split"] = table["split"]
    return ConceptData(rows, concepts, classes, len(form.class_columns) > 1)


def read_boxes(path: str | None, images: pd.Series, concepts: list[str]) -> list[list[list[float]]]:
    """Boxes of each image, in the order of `images`; raises DataError for a concept or image that is not known."""
    found: dict[str, list[list[float]]] = {name: [] for name in images}
    if path:
        table = read_table(path)
        image, concept, *corners = (
            column_of(table, name, path)
            for name in (first_column(table, IMAGE_COLUMNS) or "image", "concept", *BOX_COLUMNS)
        )
        for number, (name, what, *box) in enumerate(zip(image.astype(str), concept, *corners, strict=True), start=1):
            if what not in concepts:
                raise DataError(f"{path}: row {number} has the unknown concept {what!r}{nearest(str(what), concepts)}")
            if name not in found:
                raise DataError(f"{path}: row {number} is of {name!r}, which the table of images does not have.")
            found[name].append([concepts.index(what), *map(float, box)])
    return [found[name] for name in images]


def agreed(share: np.ndarray, agreement: str) -> np.ndarray:
    """The share of an image's readers who saw something, as the label that `agreement` makes of it."""
    if agreement == "soft":
        return share
    return (share > 0 if agreement == "any" else share >= 0.5).astype(float)


def read_findings(table: pd.DataFrame, source: str, form: ConceptFormat) -> ConceptData:
    """
    VinDr-CXR's annotations: a row per finding, reader and box in pixels; `No finding` rows have no box.

    Classes are the columns of `image_labels` that are no findings, or `class_columns` of them; without that table,
    whether there is a finding.
    """
    readers = table["rad_id"].astype(str) if "rad_id" in table else pd.Series("consensus", index=table.index)
    table = table.assign(image=table["image_id"].astype(str), reader=readers, name=table["class_name"].astype(str))
    names = set(table["name"]) - {NO_FINDING}
    unknown = sorted(set(form.concepts) - names)
    if unknown:
        raise DataError(f"{source}: no finding {unknown[0]!r}{nearest(unknown[0], names)} It has {sorted(names)}.")
    concepts = list(form.concepts) or sorted(names)
    images = pd.Index(sorted(set(table["image"])), name="image")
    readers_of = table.groupby("image")["reader"].nunique().reindex(images).to_numpy()
    seen = table[table["name"].isin(concepts)]
    marks = seen.drop_duplicates(["image", "reader", "name"]).groupby(["image", "name"]).size().unstack(fill_value=0)
    share = marks.reindex(index=images, columns=concepts, fill_value=0).to_numpy() / readers_of[:, None]
    labels = agreed(share, form.reader_agreement)
    rows = pd.DataFrame({"image": images, "concept_labels": labels.tolist()})
    rows["boxes"] = _finding_boxes(seen, source, images, concepts, labels)
    targets, rows["label"], classes, multi_label = _finding_classes(table, images, readers_of, concepts, form)
    rows["targets"] = targets
    for column, candidates in (("group", GROUP_COLUMNS), ("split", ("split",))):
        given = first_column(table, candidates)
        if given:
            rows[column] = table.groupby("image")[given].first().reindex(images).astype(str).to_numpy()
    return ConceptData(rows, concepts, classes, multi_label)


def _finding_boxes(
    seen: pd.DataFrame, source: str, images: pd.Index, concepts: list[str], labels: np.ndarray
) -> list[list[list[float]]]:
    """Every reader's boxes of the findings that an image is labelled with."""
    incomplete = seen[BOX_COLUMNS].isna().any(axis=1)
    if incomplete.any():
        row = int(incomplete.idxmax())
        raise DataError(f"{source}: row {row + 1} is a {seen['name'][row]!r} without a whole box.")
    boxes: list[list[list[float]]] = [[] for _ in images]
    place = {name: index for index, name in enumerate(images)}
    for image, name, *box in seen[["image", "name", *BOX_COLUMNS]].itertuples(index=False):
        if labels[place[image], concepts.index(name)] >= 0.5:
            boxes[place[image]].append([concepts.index(name), *map(float, box)])
    return boxes


def _finding_classes(
    table: pd.DataFrame, images: pd.Index, readers_of: np.ndarray, concepts: list[str], form: ConceptFormat
) -> tuple[list[Any], list[str], list[str], bool]:
    """Targets, labels as text, class names, and whether they are multi-label."""
    if form.image_labels is None:
        without = table[table["name"] == NO_FINDING].groupby("image")["reader"].nunique().reindex(images, fill_value=0)
        clear = without.to_numpy() / readers_of >= 0.5
        classes = ["Finding", NO_FINDING]
        return clear.astype(int).tolist(), [classes[int(value)] for value in clear], classes, False
    labels = read_table(form.image_labels)
    findings = {*concepts, *table["name"]} - {NO_FINDING}
    columns = form.class_columns or [name for name in labels if name not in {"image_id", "rad_id", *findings}]
    values = pd.DataFrame(
        {
            name: shares(column_of(labels, name, form.image_labels), f"class {name!r}", form.image_labels)
            for name in columns
        }
    )
    share = values.groupby(labels["image_id"].astype(str)).mean().reindex(images)
    if share.isna().any(axis=None):
        missing = share.index[share.isna().any(axis=1)][0]
        raise DataError(f"{form.image_labels}: has no row for image {missing!r}.")
    targets = agreed(share.to_numpy(), form.reader_agreement)
    text = ["+".join(np.array(columns)[row >= 0.5]) or "none" for row in targets]
    return targets.tolist(), text, list(columns), True


def relative_boxes(boxes: list[list[float]], width: int, height: int, names: list[str]) -> list[list[float]]:
    """
    Boxes in pixels as shares of their image.

    Raises:
        ValueError: one has no area, or does not lie in the image.
    """
    relative = []
    for concept, x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(
                f"the box {x0:g}, {y0:g}, {x1:g}, {y1:g} of {names[int(concept)]!r} has no area or lies outside the "
                f"image of {width} x {height} pixels"
            )
        relative.append([concept, x0 / width, y0 / height, x1 / width, y1 / height])
    return relative
