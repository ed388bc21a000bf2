"""Users' own clips: a CSV, TSV, JSONL or Parquet file, or a Hub data set, with `label` and `video` or `audio`."""

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from hf_fer.data.files import IMAGE_SUFFIXES, SOUND_SUFFIXES, class_folders
from hf_fer.data.hub_tables import read_hub
from hf_fer.data.loading import (
    DataError,
    cache_dir,
    check_groups,
    fold_splits,
    group_column,
    group_disjoint_split,
    group_folds,
    normalize_splits,
    optional_column,
    random_split,
    warned,
    write_atomically,
)
from hf_fer.data.names import clean_names
from hf_fer.data.stills import ARCHIVE_ENDING, from_pixels, has_pixels, read_archive
from hf_fer.data.tables import PathFinder, TableFormat, find_column, need_column, read_table

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ("label", "emotion", "class", "category", "labels", "class_name")
GROUP_COLUMNS = (
    "group",
    "speaker",
    "speaker_id",
    "subject",
    "subject_id",
    "actor",
    "actor_id",
    "participant",
    "patient",
)
VIDEO_COLUMNS = ("video", "video_path", "video_file")
AUDIO_COLUMNS = ("audio", "audio_path", "audio_file", "wav")
FILE_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "clip")

PROTOCOLS = ("manifest", "manifest_leaky", "random_leaky", "group_kfold")

LEAKY_NOTE = "LEAKY SPLIT: groups may be in training and test. These scores are inflated."
NO_GROUP_NOTE = (
    "The manifest has no 'group' column, so one speaker or patient may be in both training and test; scores may be "
    "inflated."
)


def read_manifest(path: str | Path, form: TableFormat | None = None) -> pd.DataFrame:
    """
    Read a manifest; relative paths in it are relative to its own folder.

    Args:
        path: See `tables.read_table`. Pictures may be in a column `pixels`, or in a `.npz`; see `stills`.
        form: Encoding and delimiter.

    Raises:
        DataError: it does not parse, or lacks a column, which the message names.
    """
    if Path(path).suffix.lower() == ARCHIVE_ENDING:
        return validate(read_archive(Path(path)), str(path))
    rows = read_table(path, form)
    rows = validate(from_pixels(rows, str(path)) if has_pixels(rows) else rows, str(path))
    finder = PathFinder(Path(path).parent)
    for column in ("video", "audio"):
        full = (value if pd.isna(value) else finder.find(str(value)) for value in rows[column])
        rows[column] = optional_column(full, rows.index)
    return rows


def read_class_folder(folder: Path, endings: Iterable[str]) -> pd.DataFrame | None:
    """
    The rows of a folder with one subfolder of clips per class, or `None` where it is no such folder.

    Args:
        folder: See `files.class_folders`.
        endings: Lower-case endings of the files to take.
    """
    rows = class_folders(folder, lambda path: path.suffix.lower() in endings)
    return None if rows is None else validate(rows, str(folder))


def read_hub_dataset(name: str) -> pd.DataFrame:
    """
    Read a Hub data set that has the manifest's columns; its splits are kept.

    Media columns hold paths, or are `Audio` and `Video` features of any name, whose bytes are written to the cache
    once. `row` names each row by its split and number.

    Raises:
        DataError: it cannot be loaded or lacks a column.
    """
    tables = [
        table if split is None or find_column(table, ("split",)) else table.assign(split=split)
        for split, table in read_hub(name).items()
    ]
    rows = validate(pd.concat(tables, ignore_index=True), name)
    for column in ("video", "audio"):
        rows[column] = optional_column((local_file(value) for value in rows[column]), rows.index)
    return rows


def local_file(value: Any) -> str | None:
    """The path of a media value as `decode=False` gives it: a path, or `{"path", "bytes"}` to write to the cache."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return None
    if value.get("path") and Path(value["path"]).is_file():
        return value["path"]
    if not value.get("bytes"):
        return value.get("path")
    name = hashlib.sha256(value["bytes"]).hexdigest() + Path(value.get("path") or "clip").suffix
    target = cache_dir("media") / name
    if not target.exists():
        write_atomically(target, value["bytes"])
    return str(target)


def usual_columns(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """
    Rename usual columns to `label`, `video`, `audio`, `group` and `split`; the last two are optional.

    Files in a column of `FILE_COLUMNS` are audio or, by their ending, pictures or video with its audio track.

    Raises:
        DataError: there is no label column or no file column; the message lists the names that are accepted.
    """
    found = {"label": need_column(rows, LABEL_COLUMNS, "label", source)}
    usual = {"video": VIDEO_COLUMNS, "audio": AUDIO_COLUMNS, "group": GROUP_COLUMNS, "split": ("split",)}
    found |= {role: name for role, names in usual.items() if (name := find_column(rows, names))}
    rows = rows.assign(**{role: rows[name] for role, name in found.items()})
    if not {"video", "audio"} & found.keys():
        files = rows[need_column(rows, (*VIDEO_COLUMNS, *AUDIO_COLUMNS, *FILE_COLUMNS), "video or audio", source)]
        ending = files.map(lambda name: Path(str(name)).suffix.lower())
        rows = rows.assign(
            video=files.where(~ending.isin(SOUND_SUFFIXES)), audio=files.where(~ending.isin(IMAGE_SUFFIXES))
        )
    for role, name in found.items():
        if name != role:
            logger.info("%s: column %r is used as %r.", source, name, role)
    return rows


def with_soundtracks(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows without an audio column, with each video file as its own `audio`; features and pictures have no audio."""
    silent = (".npy", *IMAGE_SUFFIXES)
    sound = (None if str(name).lower().endswith(silent) or "::" in str(name) else name for name in rows["video"])
    return rows.assign(audio=optional_column(sound, rows.index))


def validate(rows: pd.DataFrame, source: str) -> pd.DataFrame:
    """
    Check the columns and values of a manifest; rows without label or file are kept for `complete_rows`.

    Raises:
        DataError: a column is missing, no row has a label and a file, or a row has no group or an unknown split; the
            message names the row.
    """
    rows = usual_columns(rows, source)
    rows = rows.reindex(columns=[*rows, *({"video", "audio"} - set(rows))])
    rows["label"] = clean_names(rows["label"])
    reasons = lacking(rows)
    if reasons.notna().all():
        raise DataError(f"{source}: row 1 {reasons.iloc[0]}, and no row has both a label and a file.")
    if "split" in rows:
        splits = normalize_splits(rows["split"], source)
        rows = rows.drop(columns="split") if splits is None else rows.assign(split=splits)
    if "group" in rows:
        groups = group_column(rows["group"][reasons.isna()], source)
        rows = rows.drop(columns="group") if groups is None else rows.assign(group=groups)
    return rows


def lacking(rows: pd.DataFrame) -> pd.Series:
    """What each row lacks to be an example, as the end of a sentence; `None` where it lacks nothing."""
    no_file = rows["video"].isna() & rows["audio"].isna()
    found = pd.Series([None] * len(rows), index=rows.index, dtype=object)
    return found.mask(no_file, "has neither video nor audio").mask(rows["label"].isna(), "has no label")


def complete_rows(rows: pd.DataFrame, source: str) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """
    Leave out the rows that lack a label or a file.

    Args:
        rows: From `read_manifest`, `read_class_folder` or `read_hub_dataset`.
        source: Name of the table.

    Returns:
        The other rows, and `{"path", "reason"}` of those left out, with the row's number for its path.
    """
    reasons = lacking(rows)
    bad = reasons.notna()
    skipped = [
        {"path": f"{source} row {number}", "reason": reason}
        for number, reason in enumerate(reasons, 1)
        if reason is not None
    ]
    return rows[~bad].reset_index(drop=True), skipped


def assign_protocol(
    rows: pd.DataFrame, protocol: str, *, seed: int, fold: int = 0, num_folds: int = 5
) -> tuple[pd.DataFrame, list[str]]:
    """
    Keep or create the `split` column. If only some rows have a split, the others become training and validation.

    Args:
        rows: From `read_manifest` or `read_hub_dataset`.
        protocol: `manifest` (the given splits, which must be group-disjoint, or group-disjoint ones if there are
            none), `manifest_leaky` (the given splits, unchecked), `random_leaky`, or `group_kfold` (folds of whole
            groups that replace given splits: fold `fold` is test, the next one validation, the others training).
        seed: Seed of the splits that are drawn.
        fold, num_folds: Test fold and number of folds of `group_kfold`.

    Returns:
        The rows with their split, and notes for the report.

    Raises:
        DataError: the protocol is unknown, a group is in two splits, or the folds cannot be drawn.
    """
    if protocol not in PROTOCOLS:
        raise DataError(f"Unknown protocol {protocol!r} for a manifest; choose one of {list(PROTOCOLS)}.")
    if protocol == "random_leaky":
        return rows.assign(split=random_split(rows, label="label", seed=seed)), warned(LEAKY_NOTE)
    has_group = "group" in rows
    if protocol == "group_kfold":
        if not has_group:
            raise DataError("protocol 'group_kfold' needs a 'group' column.")
        fold_of = group_folds(rows, label="label", group="group", num_folds=num_folds, seed=seed)
        return rows.assign(split=fold_splits(fold_of, fold, num_folds)), []
    notes = [] if has_group else [NO_GROUP_NOTE]
    if "split" not in rows:
        split = group_disjoint_split(rows, label="label", group="group" if has_group else None, seed=seed)
        return rows.assign(split=split), notes
    without = rows[rows["split"].isna()]
    if len(without):
        group = "group" if has_group else None
        made = group_disjoint_split(without, label="label", group=group, seed=seed, held_out=("validation",))
        rows = rows.assign(split=rows["split"].fillna(made))
    if protocol == "manifest_leaky":
        return rows, warned(LEAKY_NOTE)
    if has_group:
        check_groups(rows, group="group")
    return rows, notes
