"""Loading of clips: their splits, classes, caches, and what is left out."""

import pandas as pd

from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import DataError, FileCheck, LoadedData, is_leaky, to_splits
from hf_fer.data.remarks import class_order, with_remarks
from hf_fer.recipe.arguments import check_choice
from hf_fer.task.base import Task
from hf_fer.task.steps import leave_out, subset

from ..decoding_multimodal_fer import UnusableMediaError, feature_archive
from . import visual_features
from .building import base_processor
from .cache import DecodedClips, Stored, decoded_clips
from .clips import clip_check, without_unusable
from .facts import data_facts
from .reading import known_rows, read_source
from .start import check_face_detector, known_classes


def load_clips(task: Task) -> LoadedData:
    """The splits; `own` has the caches of decoded media if the recipe sets `cache`."""
    args, checkpoint = task.data_args, task.model_args.model_name_or_path
    source = read_source(task)
    rows, labels, factors = source.rows, source.labels, source.factors
    if args.breakdown is not None:
        for column in args.breakdown:
            check_choice("breakdown column", column, rows.columns)
        factors = tuple(args.breakdown)
    if args.visual_features:
        rows = with_visual_features(rows, args.visual_features)
    known = known_classes(checkpoint) if checkpoint else []
    if known and args.unknown_classes == "leave_out" and not task.training_args.do_train:
        rows, labels, left_out = known_rows(rows, labels, known)
        source.notes += left_out
    labels = class_order(labels, known, task.training_args.do_train)
    rows, copies = drop_copies(rows, task.file_columns, leaky=is_leaky(source.protocol))
    rows = rows.assign(labels=rows["label"].map({name: index for index, name in enumerate(labels)}))
    rows = subset(task, rows)
    total = len(rows) + len(source.skipped)
    check = file_check(task)
    rows, unusable = drop_unusable(task, rows, check)
    skipped = [*source.skipped, *unusable]
    leave_out(task, skipped, total)
    if rows.empty:
        raise DataError(f"{args.dataset}: no usable clips are left.")
    notes = [*source.notes, *copies]
    data = LoadedData(to_splits(rows), labels, source.protocol, skipped, notes, source.absent, factors)
    data.facts = data_facts(args.dataset, data)
    data.own = Stored(decoded=check if isinstance(check, DecodedClips) else None)
    return with_remarks(data)


def with_visual_features(rows: pd.DataFrame, path: str) -> pd.DataFrame:
    """Replaces video files by the recipe's archive of features; raises `DataError` where no clip has any."""
    try:
        names, _ = feature_archive(path)
    except UnusableMediaError as error:
        raise DataError(f"visual_features: {error}") from error
    rows = visual_features.attach(rows, path, names)
    if not rows["video"].notna().any():
        raise DataError(
            f"{path}: has features of none of the {len(rows)} clips; its first clip is {next(iter(names))!r}."
        )
    return rows


def drop_unusable(
    task: Task, rows: pd.DataFrame, check: FileCheck | DecodedClips
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Decode every file as training will, and drop rows without usable files of the recipe's modalities."""
    args = task.data_args
    answers = iter(check.reasons([(p, kind) for kind in args.modalities for p in rows[kind] if p]))
    reasons = pd.DataFrame(
        {kind: [next(answers) if path else f"has no {kind} file" for path in rows[kind]] for kind in args.modalities},
        index=rows.index,
        dtype=object,
    )
    return without_unusable(rows, reasons, keep_parts=args.missing_modality == "keep")


def file_check(task: Task) -> FileCheck | DecodedClips:
    """The check that files can be used; if the recipe sets `cache`, the check fills it."""
    args, processor = task.data_args, base_processor(task)
    if "video" in args.modalities and not args.visual_features:
        check_face_detector(processor)
    if args.cache != "none" and not task.training_args.dry_run:
        return decoded_clips(processor, args, task.training_args)
    return clip_check(processor, args.check_workers)
