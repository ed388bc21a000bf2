"""Loads csr's data: images with classes and concepts, in the checkpoint's order if there is one."""

import dataclasses
from pathlib import Path

import numpy as np

from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import DataError, LoadedData, is_leaky, to_splits
from hf_fer.data.remarks import with_remarks
from hf_fer.task.base import Task
from hf_fer.task.steps import leave_out, split_by_protocol, subset

from ..configuration_csr import TASK
from ..decoding_csr import IMAGE_SUFFIXES
from . import report as findings
from .class_images import read_class_images
from .concepts import ConceptData, read_concepts
from .demo import demo_data
from .demo_images import DEMO_IMAGES_NOTICE
from .images import drop_unusable, is_image
from .preprocessing import ImageSettings
from .start import checkpoint_config


def read_source(task: Task) -> tuple[ConceptData, str, list[str]]:
    """Rows with a `split` column, the protocol's name, and notes."""
    args = task.data_args
    path, form, notes = args.dataset, args.form, []
    if args.dataset == "demo":
        (path, form), notes = demo_data(), [DEMO_IMAGES_NOTICE]
    if Path(path).is_dir():
        best = task.training_args.metric_for_best_model
        findings.check_class_folder(path, task.model_args.stage, args.test_dataset, best)
        data = read_class_images(Path(path), is_image)
    else:
        data = read_concepts(path, form, IMAGE_SUFFIXES)
    found = split_by_protocol(task, data.rows)
    data.rows = found.rows
    return data, found.protocol, [*notes, *data.notes, *found.notes]


def load_images(task: Task) -> LoadedData:
    """The splits, with concepts and classes; `own` is the `ConceptData` that they come from."""
    args, checkpoint = task.data_args, task.model_args.model_name_or_path
    source, protocol, notes = read_source(task)
    rows, copies = drop_copies(source.rows, task.file_columns, leaky=is_leaky(protocol))
    rows = subset(task, rows)
    total = len(rows)
    rows, skipped, depths = drop_unusable(rows, source.concepts, args.check_workers, ImageSettings.of(task))
    leave_out(task, skipped, total)
    if rows.empty:
        raise DataError(f"{args.dataset}: no usable images are left.")
    source = dataclasses.replace(source, rows=rows)
    if checkpoint:
        known = list(checkpoint_config(checkpoint).id2label.values())
        source = findings.order_classes(source, known, task.training_args.do_train)
    source, dropped = choose_concepts(task, source)
    notes += [note for note in (*copies, depths, dropped) if note]
    absent = {name: "the table has none" for name in ("validation", "test") if name not in set(rows["split"])}
    rows = source.rows.rename(columns={"targets": "labels"})
    data = LoadedData(to_splits(rows), source.classes, protocol, skipped, notes, absent, own=source)
    return with_remarks(data, learns_classes=task.model_args.stage == TASK and not source.multi_label)


def choose_concepts(task: Task, source: ConceptData) -> tuple[ConceptData, str | None]:
    """
    The concepts of the checkpoint, or those with enough training images, and a note on those dropped.

    Raises:
        DataError: the data lacks a concept of the checkpoint, or one has no positive or no negative to learn from.
    """
    checkpoint = task.model_args.model_name_or_path
    if not source.knows_concepts:
        return findings.with_unknown_concepts(source, checkpoint_config(checkpoint).concepts), findings.NO_CONCEPTS
    if checkpoint:
        known = checkpoint_config(checkpoint).concepts
        missing = [name for name in known if name not in source.concepts]
        if missing:
            raise DataError(
                f"{task.data_args.dataset}: has no labels for {missing}, which {checkpoint} was trained on."
            )
        return findings.select_concepts(source, known), None
    train = source.rows[source.rows["split"] == "train"]
    if train.empty:
        return source, None
    labels = np.array(train["concept_labels"].tolist())
    counts = dict(zip(source.concepts, (labels >= 0.5).sum(axis=0).tolist(), strict=True))
    least = task.data_args.min_concept_images
    rare = [name for name, count in counts.items() if count < least]
    kept = [name for name in source.concepts if name not in rare]
    useless = [name for name in kept if counts[name] in (0, len(train))]
    if useless or not kept:
        raise DataError(
            f"{task.data_args.dataset}: {useless or rare} cannot be learnt: of {len(train)} training images, "
            f"{[counts[name] for name in useless or rare]} show it. Leave it out of --concepts, or have rare ones "
            "dropped by --min_concept_images."
        )
    note = f"Dropped, with fewer than {least} training images: " + ", ".join(f"{n} ({counts[n]})" for n in rare)
    return findings.select_concepts(source, kept), f"{note}." if rare else None
