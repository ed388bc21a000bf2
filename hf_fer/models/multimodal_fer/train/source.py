"""Loads multimodal_fer's data: clips of RAVDESS, of a manifest, of a folder of classes or of the Hub."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from hf_fer.data import manifest
from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import DataError, FileCheck, LoadedData, cache_dir, is_leaky, to_splits
from hf_fer.data.remarks import class_order, with_remarks
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import check_choice
from hf_fer.task.base import Task
from hf_fer.task.settings import protocol_name
from hf_fer.task.steps import leave_out, split_by_protocol, subset

from ..configuration_multimodal_fer import MODALITIES
from ..decoding_multimodal_fer import UnusableMediaError, feature_archive
from . import ravdess, visual_features
from .building import base_processor
from .cache import DecodedClips, Stored, decoded_clips
from .clips import CLIP_SUFFIXES, clip_check, with_wanted_modalities, without_unusable
from .demo import DEMO_NOTICE, make_demo_ravdess
from .facts import data_facts
from .start import check_face_detector, known_classes


@dataclass
class Source:
    """
    Clips of a data set with their splits, before they are checked.

    Args:
        rows: One row per clip, with `split` and `label`.
        labels: Class names.
        protocol: Name of the protocol, with the fold if it has folds.
        skipped: Files that were left out.
        notes: Sentences for the report.
        absent: Why a split is missing, by the split's name.
        factors: Columns by which scores are broken down.
    """

    rows: pd.DataFrame
    labels: list[str]
    protocol: str
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    factors: tuple[str, ...] = ()


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
    if checkpoint:
        labels = class_order(labels, known_classes(checkpoint), task.training_args.do_train)
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


def read_source(task: Task) -> Source:
    """The clips of the recipe's `dataset`, with their splits."""
    args, path = task.data_args, Path(task.data_args.dataset)
    if args.is_table:
        return from_manifest(task, manifest.read_manifest(path, TableFormat(args.encoding, args.delimiter)))
    if args.is_on_hub:
        return from_manifest(task, manifest.read_hub_dataset(args.dataset))
    if args.dataset != "demo" and path.is_dir() and not ravdess.is_ravdess(path):
        rows = manifest.read_class_folder(path, CLIP_SUFFIXES)
        if rows is not None:
            return from_manifest(task, rows)
    return from_ravdess(task, path)


def from_manifest(task: Task, rows: pd.DataFrame) -> Source:
    """Clips of a table, split by one of `manifest.PROTOCOLS`."""
    args = task.data_args
    wanted = [kind for kind in args.modalities if kind == "audio" or not args.visual_features]
    found = split_by_protocol(task, with_wanted_modalities(rows, wanted, args.dataset))
    labels = sorted(set(found.rows["label"]))
    return Source(found.rows, labels, found.protocol, notes=found.notes, absent=found.absent)


def from_ravdess(task: Task, path: Path) -> Source:
    """The folders of RAVDESS or of the demo, split by one of `ravdess.PROTOCOLS`."""
    args, notes = task.data_args, []
    if args.dataset == "demo":
        path, notes = make_demo_ravdess(cache_dir("demo", "multimodal_fer")), [DEMO_NOTICE]
    protocol = args.protocol or ravdess.PROTOCOLS[0]
    files, skipped = ravdess.scan(path, args.channel)
    # With visual features, a clip may have only a file of its sound.
    rows, pairing = ravdess.performances(files, list(MODALITIES) if args.visual_features else args.modalities)
    rows, leaks = ravdess.assign_protocol(rows, protocol, fold=args.fold, seed=args.split_seed)
    return Source(
        rows,
        list(ravdess.EMOTIONS),
        protocol_name(task, protocol),
        skipped,
        [*notes, *pairing, *leaks],
        ravdess.absent_splits(rows),
        ravdess.FACTORS,
    )


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
