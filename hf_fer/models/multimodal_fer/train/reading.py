"""Reads clips and their splits from RAVDESS, other corpora, tables, folders of classes and Hub data sets."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from hf_fer.data import manifest
from hf_fer.data.files import IMAGE_SUFFIXES
from hf_fer.data.loading import DataError, cache_dir, check_groups, is_leaky, warned
from hf_fer.data.tables import TableFormat
from hf_fer.task.base import Task
from hf_fer.task.settings import protocol_name
from hf_fer.task.steps import split_by_protocol

from ..configuration_multimodal_fer import MODALITIES
from . import ravdess
from .arguments import names_hub_dataset, names_table
from .clips import CLIP_SUFFIXES, with_wanted_modalities
from .corpora import read_corpus
from .demo import DEMO_NOTICE, make_demo_ravdess

CORPUS_FACTORS = ("corpus", "sex", "intensity")
"""Columns of corpora other than RAVDESS by which scores are broken down."""
FEWEST_SPEAKERS = 3


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
        absent: Name of a missing split -> the reason.
        factors: Columns by which scores are broken down.
    """

    rows: pd.DataFrame
    labels: list[str]
    protocol: str
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    factors: tuple[str, ...] = ()


def read_source(task: Task) -> Source:
    """The clips of the recipe's `dataset` and `more_datasets`, with their splits and the classes of `label_map`."""
    args = task.data_args
    more = args.more_datasets or []
    parts = [read_dataset(task, name, alone=not more) for name in (args.dataset, *more)]
    source = joined(parts, (args.dataset, *more)) if more else parts[0]
    return relabelled(source, args.label_map) if args.label_map else source


def read_dataset(task: Task, name: str, alone: bool = True) -> Source:
    """
    Read one data set.

    Args:
        task: Task whose recipe names the protocol; each data set is split separately.
        name: Path of a table or a folder, name of a data set on the Hub, or `demo`.
        alone: Whether the recipe has no other data set. With others, a corpus of one or two speakers is used for
            training only.
    """
    args, path = task.data_args, Path(name)
    form = TableFormat(args.encoding, args.delimiter)
    if names_table(name):
        return from_manifest(task, manifest.read_manifest(path, form), name)
    if names_hub_dataset(name):
        return from_manifest(task, manifest.read_hub_dataset(name), name)
    if name != "demo" and path.is_dir() and not ravdess.is_ravdess(path):
        found = read_corpus(path, form)
        if found is not None:
            return from_corpus(task, found.rows, found.skipped, name, alone)
        # Pictures beside clips are previews, as file managers write them.
        endings = (CLIP_SUFFIXES, IMAGE_SUFFIXES)
        found_rows = (manifest.read_class_folder(path, kinds) for kinds in endings)
        rows = next((rows for rows in found_rows if rows is not None), None)
        if rows is not None:
            return from_manifest(task, rows, name)
    return from_ravdess(task, name)


def from_manifest(task: Task, rows: pd.DataFrame, name: str) -> Source:
    """Clips of a table, split by one of `manifest.PROTOCOLS`."""
    args = task.data_args
    wanted = [kind for kind in args.modalities if kind == "audio" or not args.visual_features]
    # A recipe for RAVDESS may name more data sets; the protocols of RAVDESS select its own actors.
    own = set(ravdess.PROTOCOLS) - set(manifest.PROTOCOLS)
    protocol = manifest.PROTOCOLS[0] if args.protocol in own else args.protocol
    rows, skipped = manifest.complete_rows(rows, name)
    found = split_by_protocol(task, with_wanted_modalities(rows, wanted, name), protocol)
    labels = sorted(set(found.rows["label"]))
    return Source(found.rows, labels, found.protocol, skipped, found.notes, found.absent)


def from_corpus(task: Task, rows: pd.DataFrame, skipped: list[dict[str, str]], name: str, alone: bool) -> Source:
    """Clips of a corpus of `corpora`, split like those of a table, with classes in the order of RAVDESS."""
    if not alone and rows["group"].nunique() < FEWEST_SPEAKERS and "split" not in rows:
        note = f"{name} has {rows['group'].nunique()} speakers, too few to hold some out: all are in training."
        source = Source(rows.assign(split="train"), [], "manifest", notes=warned(note))
    else:
        source = from_manifest(task, rows, name)
    source.labels, source.skipped = in_usual_order(rows["label"]), [*source.skipped, *skipped]
    source.factors = tuple(column for column in CORPUS_FACTORS if source.rows.get(column, pd.Series()).nunique() > 1)
    return source


def from_ravdess(task: Task, name: str) -> Source:
    """The folders of RAVDESS or of the demo, split by one of `ravdess.PROTOCOLS`."""
    args, path, notes = task.data_args, Path(name), []
    if name == "demo":
        path, notes = make_demo_ravdess(cache_dir("demo", "multimodal_fer")), [DEMO_NOTICE]
    protocol = args.protocol or ravdess.PROTOCOLS[0]
    files, skipped = ravdess.scan(path, args.channel)
    # With visual features, a clip may consist of a sound file alone.
    rows, pairing = ravdess.performances(files, list(MODALITIES) if args.visual_features else args.modalities)
    if args.more_datasets and protocol in manifest.PROTOCOLS:
        found = split_by_protocol(task, rows)
        return Source(found.rows, list(ravdess.EMOTIONS), found.protocol, skipped, [*notes, *pairing, *found.notes])
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


def joined(parts: list[Source], names: Iterable[str]) -> Source:
    """
    Join several data sets, each with its own splits; the column `corpus` names the data set of each clip.

    Raises:
        DataError: a group is in different splits of two data sets, or only some of the data sets have groups.
    """
    tables = [
        part.rows if "corpus" in part.rows else part.rows.assign(corpus=corpus_name(name))
        for part, name in zip(parts, names, strict=True)
    ]
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.astype(object).where(rows.notna(), None)
    protocol = " + ".join(dict.fromkeys(part.protocol for part in parts))
    if any("group" in table for table in tables) and not any(is_leaky(part.protocol) for part in parts):
        if rows.get("group", pd.Series([None])).isna().any():
            raise DataError(
                "more_datasets: some of the data sets have a column of groups (speakers), others have none."
            )
        check_groups(rows, group="group")
    present = set(rows["split"])
    absent = {split: "none of the data sets has it" for split in ("validation", "test") if split not in present}
    skipped = [entry for part in parts for entry in part.skipped]
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    return Source(rows, in_usual_order(rows["label"]), protocol, skipped, notes, absent, ("corpus",))


def corpus_name(dataset: str) -> str:
    """Entry of the column `corpus` for a data set that lacks the column."""
    return "ravdess" if ravdess.is_ravdess(Path(dataset)) else Path(dataset).stem


def in_usual_order(labels: Iterable[str]) -> list[str]:
    """Class names in the order of RAVDESS, followed by those that RAVDESS lacks."""
    present = set(labels)
    usual = [name for name in ravdess.EMOTIONS if name in present]
    return [*usual, *sorted(present - set(usual))]


def relabelled(source: Source, label_map: dict[str, str | None]) -> Source:
    """
    The clips with the classes of `label_map`; clips whose class becomes `None` are left out, and a note counts them.

    Raises:
        DataError: `label_map` names a class that no clip has, or leaves out all clips.
    """
    known = set(source.rows["label"])
    if unknown := sorted(label_map.keys() - known):
        classes = ", ".join(sorted(known))
        raise DataError(f"label_map: no clip has the class {', '.join(unknown)}; the classes are {classes}.")
    labels = source.rows["label"].map(lambda name: label_map.get(name, name))
    rows = source.rows.assign(label=labels)[labels.notna()].reset_index(drop=True)
    if rows.empty:
        raise DataError("label_map: leaves out all clips.")
    counts = {old: int((source.rows["label"] == old).sum()) for old in label_map}
    done = ", ".join(
        f"{old} ({counts[old]}) {'left out' if new is None else f'to {new}'}" for old, new in label_map.items()
    )
    named = list(dict.fromkeys(label_map.get(name, name) for name in source.labels))
    source.rows, source.labels = rows, [name for name in named if name is not None]
    source.notes = [*source.notes, f"Classes changed by label_map, with the number of their clips: {done}."]
    return source


def known_rows(rows: pd.DataFrame, labels: list[str], known: list[str]) -> tuple[pd.DataFrame, list[str], list[str]]:
    """
    The clips of classes that a checkpoint knows, those classes, and a note on the others.

    Raises:
        DataError: the checkpoint knows none of the classes.
    """
    shared, lost = [name for name in labels if name in known], [name for name in labels if name not in known]
    if not shared:
        raise DataError(f"The checkpoint knows none of the classes {', '.join(labels)}; it knows {', '.join(known)}.")
    if not lost:
        return rows, labels, []
    kept = rows["label"].isin(shared)
    note = (
        f"{int((~kept).sum())} clips of classes that the checkpoint does not know are left out ({', '.join(lost)}). "
        "Its other classes remain possible predictions, and count as wrong."
    )
    return rows[kept].reset_index(drop=True), shared, warned(note)
