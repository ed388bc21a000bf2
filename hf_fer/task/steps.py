"""Steps of `load_data` that systems share: skipping unusable examples, splitting, subsets, copies."""

from dataclasses import dataclass, field, replace

import pandas as pd

from hf_fer.data import manifest
from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import is_leaky, take_subset
from hf_fer.data.skipped import enforce_skip_limit
from hf_fer.task.base import Task
from hf_fer.task.settings import protocol_name, skipped_file


@dataclass
class SplitRows:
    """
    Rows with their split.

    Args:
        rows: One row per example, with `split`.
        protocol: Name of the protocol, with the fold where it has folds.
        notes: Sentences for the report.
        absent: Name of a missing split -> why it is missing.
    """

    rows: pd.DataFrame
    protocol: str
    notes: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def leave_out(task: Task, skipped: list[dict[str, str]], total: int) -> None:
    """
    Write the examples that cannot be used to the report's `skipped.jsonl`; a dry run writes nothing.

    Args:
        task: Task whose data it is.
        skipped: `{"path", "reason"}` of each unusable example.
        total: Number of all examples, these included.

    Raises:
        DataError: their fraction exceeds `max_skipped_fraction`.
    """
    if task.training_args.should_save and not task.training_args.dry_run:
        skipped_file(task).append(skipped)
    enforce_skip_limit(skipped, total, task.data_args.max_skipped_fraction)


def subset(task: Task, rows: pd.DataFrame) -> pd.DataFrame:
    """The subset of each split that the recipe asks for, stratified by `label` if there is one; see `take_subset`."""
    args = task.data_args
    if "label" not in rows:
        return subset(task, rows.assign(label="")).drop(columns="label")
    return take_subset(
        rows,
        label="label",
        seed=args.split_seed,
        train_fraction=args.train_fraction,
        max_train_samples=args.max_train_samples,
        max_eval_samples=args.max_eval_samples,
    )


def split_by_protocol(task: Task, rows: pd.DataFrame, protocol: str | None = None) -> SplitRows:
    """
    Split rows by one of `manifest.PROTOCOLS`; see `manifest.assign_protocol`.

    Args:
        task: Task whose recipe names protocol, seed and fold.
        rows: One row per example, with `group` and `split` where the data has them, and with `label` where there are
            classes to stratify by.
        protocol: Protocol that replaces the recipe's.

    Raises:
        DataError: the protocol is unknown, a group is in two splits, or the folds cannot be drawn.
    """
    if "label" not in rows:
        found = split_by_protocol(task, rows.assign(label=""), protocol)
        return replace(found, rows=found.rows.drop(columns="label"))
    args = task.data_args
    protocol = protocol or args.protocol or manifest.PROTOCOLS[0]
    rows, notes = manifest.assign_protocol(
        rows, protocol, seed=args.split_seed, fold=args.fold, num_folds=args.num_folds
    )
    present = set(rows["split"])
    absent = {name: "the manifest has none" for name in ("validation", "test") if name not in present}
    return SplitRows(rows, protocol_name(task, protocol), notes, absent)


def split_rows(task: Task, rows: pd.DataFrame) -> SplitRows:
    """
    Split rows by protocol, drop copies of an example in two splits, and take the subsets that the recipe asks for.

    Args:
        task: Task whose `file_columns` and `text_columns` hold an example's inputs.
        rows: See `split_by_protocol`.

    Raises:
        DataError: see `split_by_protocol`.
    """
    return without_copies(task, split_by_protocol(task, rows))


def without_copies(task: Task, found: SplitRows) -> SplitRows:
    """Drop copies of an example in two splits, and take the subsets that the recipe asks for."""
    rows, copies = drop_copies(
        found.rows, task.file_columns, leaky=is_leaky(found.protocol), text_columns=task.text_columns
    )
    return SplitRows(subset(task, rows), found.protocol, [*found.notes, *copies], found.absent)
