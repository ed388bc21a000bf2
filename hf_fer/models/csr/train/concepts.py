"""Images with concepts, classes and boxes: a table with a row per image, or VinDr-CXR's with a row per finding."""

import dataclasses
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_fer.data.loading import DataError, group_column, normalize_splits
from hf_fer.data.names import clean_name, clean_names, look_alike_notes
from hf_fer.data.tables import PathFinder, TableFormat, find_column, need_column, read_table
from hf_fer.recipe.arguments import nearest

from .boxes import BOX_COLUMNS, corner_numbers

logger = logging.getLogger(__name__)

READER_AGREEMENTS = ("any", "majority", "soft")
IMAGE_COLUMNS = ("image", "file", "path", "image_id", "filename", "file_name", "image_path", "filepath", "img")
GROUP_COLUMNS = ("group", "patient", "patient_id", "subject", "subject_id", "person", "case_id")
SPLIT_COLUMNS = ("split",)
FINDING_COLUMNS = {"image_id", "class_name", *BOX_COLUMNS}
NO_FINDING = "No finding"
GLOBAL_LABELS = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "Other disease", NO_FINDING)
"""VinDr-CXR's labels of a whole image; its training and test tables spell one of them differently."""


@dataclass
class ConceptFormat:
    """
    What the columns of a table mean.

    Args:
        image_folder: Folder of the images; the table's own folder if unset.
        concepts: Concept name -> `column` (values in [0, 1]) or `column=value|value` (present where the column has
            one of the values). For VinDr-CXR the findings to use, all if empty.
        class_columns: One column with class names, or several of 0 and 1, which make classes multi-label.
        boxes: Table of boxes: image, concept, x_min, y_min, x_max, y_max, in pixels.
        image_labels: VinDr-CXR's table of labels per image and reader.
        reader_agreement: `any` reader, the `majority` (half or more) of an image's readers, or `soft`: their share.
        test_dataset: Table of the test set, if it is separate.
        test_image_folder: Folder of the test images; `image_folder`, or the test table's own folder, if unset.
        test_boxes, test_image_labels: `boxes` and `image_labels` of the test set.
        encoding, delimiter: Encoding and delimiter of all of these tables; see `tables.TableFormat`.
    """

    image_folder: str | None = None
    concepts: dict[str, str] = field(default_factory=dict)
    class_columns: list[str] = field(default_factory=list)
    boxes: str | None = None
    image_labels: str | None = None
    reader_agreement: str = "majority"
    test_dataset: str | None = None
    test_image_folder: str | None = None
    test_boxes: str | None = None
    test_image_labels: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None

    @property
    def table(self) -> TableFormat:
        """Encoding and delimiter of the tables."""
        return TableFormat(self.encoding, self.delimiter)

    def of_test(self) -> "ConceptFormat":
        """What the columns of `test_dataset` mean."""
        return dataclasses.replace(
            self,
            image_folder=self.test_image_folder or self.image_folder,
            boxes=self.test_boxes,
            image_labels=self.test_image_labels,
        )


@dataclass
class ConceptData:
    """
    Args:
        rows: One row per image: `path`, `label` (class names, joined by `+`), `targets` (class index, or one share per
            class where they are multi-label), `concept_labels` (one share per concept), `boxes` (concept index, x0,
            y0, x1, y1 in pixels), and `group` and `split` where the source has them. With a separate test set there
            is always a `split` column; it is empty for the rows of a training table without splits.
        concepts, classes: Names in index order.
        multi_label: Whether an image may have several classes.
        knows_concepts: Whether the data says which images show which concepts.
        notes: Remarks for the report on how the data is written.
    """

    rows: pd.DataFrame
    concepts: list[str]
    classes: list[str]
    multi_label: bool
    knows_concepts: bool = True
    notes: list[str] = field(default_factory=list)


def read_concepts(path: str | Path, form: ConceptFormat, suffixes: tuple[str, ...]) -> ConceptData:
    """
    Read a table of images with concepts, and the table of a separate test set if there is one.

    Concepts and classes are those of the first table.

    Args:
        path: CSV, TSV, JSONL or Parquet; a table with the columns of VinDr-CXR's annotations is read as such.
        form: What its columns mean.
        suffixes: Endings of image files, tried where an image's name has none.

    Raises:
        DataError: it does not parse, lacks a column, or has a value out of range, naming the row; or the test set has
            a concept, class or image that does not go with the training table.
    """
    table = read_table(path, form.table)
    reader = read_findings if set(table) >= FINDING_COLUMNS else read_wide
    train = located(reader(table, str(path), form), str(path), form, suffixes)
    if form.test_dataset is None:
        return train
    if reader is read_findings and (form.image_labels is None) != (form.test_image_labels is None):
        raise DataError(f"{form.test_dataset}: set both image_labels and test_image_labels, or neither.")
    table, form = read_table(form.test_dataset, form.table), form.of_test()
    test = located(reader(table, form.test_dataset, form, train), form.test_dataset, form, suffixes)
    # Files of two folders may share a name; the names of VinDr-CXR's images are unique.
    identity = "image" if reader is read_findings else "path"
    check_apart(train.rows, test.rows, identity, str(path), form.test_dataset)
    open_rows = train.rows if "split" in train.rows else train.rows.assign(split=None)
    train.notes += [note for note in test.notes if note not in train.notes]
    train.rows = pd.concat([open_rows, test.rows.assign(split="test")], ignore_index=True)
    return train


def located(data: ConceptData, source: str, form: ConceptFormat, suffixes: tuple[str, ...]) -> ConceptData:
    """Adds the `path` of each image, and gives splits this project's names."""
    finder = PathFinder(form.image_folder or Path(source).parent)
    data.rows["path"] = [image_file(finder, name, suffixes) for name in data.rows["image"]]
    if "split" in data.rows:
        splits = normalize_splits(data.rows["split"], source)
        data.rows = data.rows.drop(columns="split") if splits is None else data.rows.assign(split=splits)
    return data


def check_apart(train: pd.DataFrame, test: pd.DataFrame, identity: str, source: str, test_source: str) -> None:
    """
    Check that a training table and a separate test table share no image and no split.

    Args:
        train, test: Rows of the tables.
        identity: The column that identifies an image.
        source, test_source: Files of the tables.

    Raises:
        DataError: an image is in both, a row has a split of the other table, or only one of them has groups.
    """
    shared = test["image"][test[identity].map(os.path.abspath).isin(train[identity].map(os.path.abspath))]
    if len(shared):
        raise DataError(f"{test_source}: image {shared.iloc[0]!r} is in {source}, too ({len(shared)} such images).")
    for rows, file, is_test in ((train, source, False), (test, test_source, True)):
        wrong = rows[(rows["split"] == "test") != is_test] if "split" in rows else rows[:0]
        if len(wrong):
            raise DataError(
                f"{file}: image {wrong['image'].iloc[0]!r} has split {wrong['split'].iloc[0]!r}, but the test set is "
                "all of test_dataset and nothing else. Move the row to the other table, or leave test_dataset out."
            )
    if ("group" in train) != ("group" in test):
        lacking, other = (test_source, source) if "group" in train else (source, test_source)
        raise DataError(
            f"{lacking}: has no column of {GROUP_COLUMNS} as {other} has, so a patient may be in both. Add it."
        )


def image_file(finder: PathFinder, name: str, suffixes: tuple[str, ...]) -> str:
    """The file of an image's name, which may lack the suffix."""
    path = finder.find(name)
    if Path(path).suffix.lower() in suffixes:
        return path
    found = (finder.find(f"{name}{suffix}") for suffix in suffixes)
    return next((candidate for candidate in found if os.path.isfile(candidate)), path)


def check_filled(values: pd.Series, source: str) -> None:
    """Check that a column has a value in every row; raises DataError with the first row that has none."""
    lacking = values.isna().to_numpy()
    if lacking.any():
        row, count = int(lacking.argmax()) + 1, int(lacking.sum())
        raise DataError(f"{source}: row {row} has no {values.name!r} ({count} such rows).")


def column_of(table: pd.DataFrame, name: str, source: str) -> pd.Series:
    """A column; raises DataError with the nearest name where there is none."""
    name = clean_name(name)
    if name not in table:
        near = nearest(name, map(str, table)) or "."
        raise DataError(f"{source}: no column {name!r}{near} It has {sorted(map(str, table))}.")
    return table[name]


def shares(values: pd.Series, what: str, source: str) -> np.ndarray:
    """A column of numbers in [0, 1]; raises DataError with the row of the first that is not one."""
    numbers = pd.to_numeric(values.replace({"True": "1", "False": "0"}), errors="coerce")
    bad = ~numbers.between(0, 1)
    if bad.any():
        row = int(bad.to_numpy().argmax())
        raise DataError(
            f"{source}: row {row + 1} has {str(values.iloc[row])!r} for {what}; give a number from 0 to 1, or a rule "
            f"like '{values.name}=value|value'."
        )
    return numbers.to_numpy(dtype=float)


def concept_values(table: pd.DataFrame, rule: str, source: str, must_occur: bool) -> np.ndarray:
    """
    A concept's value in [0, 1] for each row, by its rule `column` or `column=value|value`.

    Raises:
        DataError: the column does not exist, a value is missing or out of range, or, with `must_occur`, none of the
            rule's values occurs.
    """
    name, _, accepted = rule.partition("=")
    values = column_of(table, name, source)
    if not accepted:
        return shares(values, f"concept column {name!r}", source)
    values = clean_names(values)
    if values.isna().any():
        raise DataError(
            f"{source}: row {int(values.isna().to_numpy().argmax()) + 1} has no {name!r} ({int(values.isna().sum())} "
            "such rows), so it is unknown whether the concept is present. Fill it in, or leave the row out."
        )
    # A column of whole numbers may be written as 1.0.
    values = values.astype(str).str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
    known, found = set(map(clean_name, accepted.split("|"))), set(values)
    if must_occur and not known & found:
        raise DataError(f"{source}: column {name!r} has none of {sorted(known)}; it has {sorted(found)[:20]}.")
    if known - found:
        logger.warning(
            "%s: column %r never has %s of %r; it has %s.",
            source,
            name,
            sorted(known - found),
            rule,
            sorted(found)[:20],
        )
    return values.isin(known).to_numpy(dtype=float)


def class_targets(
    table: pd.DataFrame, columns: list[str], source: str, known: list[str] | None
) -> tuple[list[Any], list[str], list[str]]:
    """Each row's target, each row's label as text, and the class names: `known` ones, or those of the column."""
    if not columns:
        raise DataError(f"{source}: which columns hold the classes? Set class_columns; it has {sorted(table)}.")
    if len(columns) > 1:
        values = np.stack([shares(column_of(table, name, source), f"class {name!r}", source) for name in columns], 1)
        labels = ["+".join(np.array(columns)[row >= 0.5]) or "none" for row in values]
        return values.tolist(), labels, list(columns)
    values = clean_names(column_of(table, columns[0], source))
    check_filled(values, source)
    labels = values.astype(str)
    classes = known or sorted(set(labels))
    unknown = ~labels.isin(classes).to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        raise DataError(
            f"{source}: row {row + 1} is of the class {labels.iloc[row]!r}, which the training table does not have. "
            f"It has {classes}."
        )
    return [classes.index(name) for name in labels], list(labels), classes


def read_wide(table: pd.DataFrame, source: str, form: ConceptFormat, known: ConceptData | None = None) -> ConceptData:
    """A table with a row per image; see `ConceptFormat`. A test table has the classes of the training data `known`."""
    image = need_column(table, IMAGE_COLUMNS, "image", source)
    if not form.concepts:
        raise DataError(f"{source}: which columns hold concepts? Set concepts; it has {sorted(map(str, table))}.")
    check_filled(table[image], source)
    repeated = table[image].duplicated()
    if repeated.any():
        raise DataError(f"{source}: image {table[image][repeated].iloc[0]!r} has more than one row.")
    rules = form.concepts.values()
    values = np.stack([concept_values(table, rule, source, must_occur=known is None) for rule in rules], axis=1)
    targets, labels, classes = class_targets(table, form.class_columns, source, known and known.classes)
    concepts = list(map(clean_name, form.concepts))
    rows = pd.DataFrame(
        {
            "image": table[image].astype(str),
            "label": labels,
            "targets": targets,
            "concept_labels": values.tolist(),
            "boxes": read_boxes(form, table[image].astype(str), concepts),
        }
    )
    group = find_column(table, GROUP_COLUMNS)
    groups = group_column(table[group], source) if group else None
    if groups is not None:
        rows["group"] = groups
    split = find_column(table, SPLIT_COLUMNS)
    if split:
        rows["split"] = table[split]
    notes = rule_notes(table, rules)
    return ConceptData(rows, concepts, classes, len(form.class_columns) > 1, notes=notes)


def rule_notes(table: pd.DataFrame, rules: Iterable[str]) -> list[str]:
    """Notes on values that look alike, in a column or in the rules about it."""
    known: dict[str, set[str]] = {}
    for rule in rules:
        name, _, accepted = rule.partition("=")
        if accepted:
            known.setdefault(name, set()).update(map(clean_name, accepted.split("|")))
    return [
        note
        for name, values in known.items()
        for note in look_alike_notes(values | set(clean_names(table[clean_name(name)]).dropna()), name)
    ]


def read_boxes(form: ConceptFormat, images: pd.Series, concepts: list[str]) -> list[list[list[float]]]:
    """Boxes of each image, in the order of `images`; raises DataError for a concept or image that is not known."""
    found: dict[str, list[list[float]]] = {name: [] for name in images}
    if path := form.boxes:
        table = read_table(path, form.table, may_be_empty=True)
        image, concept, *corners = (
            column_of(table, name, path)
            for name in (find_column(table, IMAGE_COLUMNS) or "image", "concept", *BOX_COLUMNS)
        )
        for number, (name, what, *box) in enumerate(
            zip(image.astype(str), clean_names(concept), *corners, strict=True), start=1
        ):
            if what not in concepts:
                raise DataError(f"{path}: row {number} has the unknown concept {what!r}{nearest(str(what), concepts)}")
            if name not in found:
                raise DataError(f"{path}: row {number} is of {name!r}, which the table of images does not have.")
            found[name].append([concepts.index(what), *corner_numbers(box, path, number)])
    return [found[name] for name in images]


def agreed(share: np.ndarray, agreement: str) -> np.ndarray:
    """The label that `agreement` gives for the share of an image's readers who marked a finding."""
    if agreement == "soft":
        return share
    return (share > 0 if agreement == "any" else share >= 0.5).astype(float)


def read_findings(
    table: pd.DataFrame, source: str, form: ConceptFormat, known: ConceptData | None = None
) -> ConceptData:
    """
    VinDr-CXR's annotations: a row per finding, reader and box in pixels; `No finding` rows have no box.

    With `image_labels`, the classes are its `class_columns`, by default VinDr-CXR's labels of whole images, or else
    the columns that are not findings. Without it, there are two classes: a finding, or none. A test table has the
    concepts and classes of the training data `known`.
    """
    for name in sorted(FINDING_COLUMNS):
        column_of(table, name, source)
    for name in ("image_id", "class_name"):
        check_filled(table[name], source)
    readers = pd.Series("consensus", index=table.index)
    if "rad_id" in table:
        readers = clean_names(table["rad_id"]).astype(str)
    findings = clean_names(table["class_name"]).astype(str)
    table = table.assign(image=table["image_id"].astype(str), reader=readers, name=findings)
    names = set(table["name"]) - {NO_FINDING}
    concepts = known.concepts if known else list(map(clean_name, form.concepts)) or sorted(names)
    unknown = sorted(set(concepts) - names)
    if unknown and known is None:
        raise DataError(f"{source}: no finding {unknown[0]!r}{nearest(unknown[0], names)} It has {sorted(names)}.")
    new = sorted(names - set(concepts))
    if new and not form.concepts:
        raise DataError(
            f"{source}: has the finding {new[0]!r}, which the training table does not have. Set concepts to the "
            f"findings to use; the training table has {concepts}."
        )
    images = pd.Index(sorted(set(table["image"])), name="image")
    readers_of = table.groupby("image")["reader"].nunique().reindex(images).to_numpy()
    seen = table[table["name"].isin(concepts)]
    marks = seen.drop_duplicates(["image", "reader", "name"]).groupby(["image", "name"]).size().unstack(fill_value=0)
    share = marks.reindex(index=images, columns=concepts, fill_value=0).to_numpy() / readers_of[:, None]
    labels = agreed(share, form.reader_agreement)
    rows = pd.DataFrame({"image": images, "concept_labels": labels.tolist()})
    rows["boxes"] = _finding_boxes(seen, source, images, concepts, labels)
    if form.image_labels is None:
        rows["targets"], rows["label"], classes = _has_finding(table, images, readers_of, form.reader_agreement)
    else:
        targets, rows["label"], classes = _image_classes(table, images, concepts, form, known and known.classes)
        rows["targets"] = targets
    for role, names, read in (("group", GROUP_COLUMNS, group_column), ("split", SPLIT_COLUMNS, normalize_splits)):
        column = find_column(table, names)
        values = read(table[column], source) if column else None
        if values is not None:
            rows[role] = _one_an_image(values, table["image"], column, source).reindex(images).to_numpy()
    notes = look_alike_notes(names, "class_name")
    return ConceptData(rows, concepts, classes, form.image_labels is not None, notes=notes)


def _one_an_image(values: pd.Series, image: pd.Series, column: str, source: str) -> pd.Series:
    """The value of each image's rows; raises `DataError` with a row that has another one."""
    first = values.groupby(image).first()
    other = (values != image.map(first)).to_numpy()
    if other.any():
        row = int(other.argmax())
        raise DataError(
            f"{source}: row {row + 1} has the {column} {values.iloc[row]!r} for image {image.iloc[row]!r}, and an "
            f"earlier row has {first[image.iloc[row]]!r}. Correct one of them."
        )
    return first


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
    for row, image, name, *box in seen[["image", "name", *BOX_COLUMNS]].itertuples():
        if labels[place[image], concepts.index(name)] >= 0.5:
            boxes[place[image]].append([concepts.index(name), *corner_numbers(box, source, row + 1)])
    return boxes


def _has_finding(
    table: pd.DataFrame, images: pd.Index, readers_of: np.ndarray, agreement: str
) -> tuple[list[int], list[str], list[str]]:
    """Targets, labels as text and names of the classes finding and no finding; `soft` counts as `majority`."""
    found = table[table["name"] != NO_FINDING].groupby("image")["reader"].nunique().reindex(images, fill_value=0)
    seen = agreed(found.to_numpy() / readers_of, "majority" if agreement == "soft" else agreement)
    classes = ["Finding", NO_FINDING]
    targets = (seen < 0.5).astype(int).tolist()
    return targets, [classes[target] for target in targets], classes


def _image_classes(
    table: pd.DataFrame, images: pd.Index, concepts: list[str], form: ConceptFormat, known: list[str] | None
) -> tuple[list[list[float]], list[str], list[str]]:
    """Targets, labels as text and class names from the table of labels per image."""
    source = form.image_labels
    labels = read_table(source, form.table)
    image = column_of(labels, "image_id", source)
    columns = form.class_columns or _class_columns(labels, {*concepts, *table["name"]} - {NO_FINDING})
    if not columns:
        raise DataError(f"{source}: has no column of a class; it has {sorted(labels)}.")
    if known:
        new = [name for name in columns if _spelling(name) not in map(_spelling, known)]
        if new:
            raise DataError(
                f"{source}: has the class {new[0]!r}, which the training table's labels do not have. Set "
                f"class_columns to the classes to use; the training table has {known}."
            )
        here = {_spelling(name): name for name in labels}
        columns = [here.get(_spelling(name), name) for name in known]
    values = pd.DataFrame(
        {name: shares(column_of(labels, name, source), f"class {name!r}", source) for name in columns}
    )
    share = values.groupby(image.astype(str)).mean().reindex(images)
    if share.isna().any(axis=None):
        missing = share.index[share.isna().any(axis=1)][0]
        raise DataError(f"{source}: has no row for image {missing!r}.")
    targets, classes = agreed(share.to_numpy(), form.reader_agreement), known or list(columns)
    text = ["+".join(np.array(classes)[row >= 0.5]) or "none" for row in targets]
    return targets.tolist(), text, classes


def _class_columns(labels: pd.DataFrame, findings: set[str]) -> list[str]:
    """Columns of VinDr-CXR's labels of whole images; if there are none, all columns that are not findings."""
    known = [name for name in labels if name in GLOBAL_LABELS]
    # Findings that no reader marked have a column, too, so the annotations do not tell which columns are classes.
    return known if set(known) - {NO_FINDING} else [n for n in labels if n not in {"image_id", "rad_id", *findings}]


def _spelling(name: str) -> str:
    """One spelling of a class that VinDr-CXR's tables spell in two."""
    return "Other diseases" if name == "Other disease" else name
