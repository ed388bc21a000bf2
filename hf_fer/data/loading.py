"""Data loading that all systems share: group-disjoint splits, subsets, file checks and skipped examples."""

import errno
import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from filelock import FileLock
from huggingface_hub.constants import HF_HOME
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from hf_fer.data.facts import DataFacts
from hf_fer.data.names import clean_names
from hf_fer.data.progress import progress

logger = logging.getLogger(__name__)

MANY_GROUPS = 2000
SPLITS = ("train", "validation", "test")
EXAMPLES = "examples"
SPLIT_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train"}


class DataError(ValueError):
    """Data that cannot be used as it is; the message names the file and the remedy."""


@dataclass
class LoadedData:
    """
    A task's data, ready for transforms.

    Args:
        splits: Split -> data set, without keys for missing splits.
        labels: Class names in index order; empty for systems without classes.
        protocol: Name of the protocol by which the data was split.
        skipped: One `{"path", "reason"}` per skipped example.
        notes: Sentences that every report of a run on this data repeats.
        absent: Name of a missing split -> why it is missing.
        factors: Metadata columns by whose values a report may break scores down.
        facts: Facts for the model card.
        own: Whatever else the system's later hooks need; shared code does not read it.
    """

    splits: DatasetDict
    labels: list[str]
    protocol: str
    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    factors: tuple[str, ...] = ()
    facts: DataFacts = field(default_factory=DataFacts)
    own: Any = None

    def counts(self) -> dict[str, dict[str, int]]:
        """
        Split -> class -> number of examples, in class order; an example with several labels counts for each.

        Without classes, all examples of a split are counted under `EXAMPLES`.
        """
        if not self.labels:
            return {split: {EXAMPLES: len(data)} for split, data in self.splits.items()}
        return {
            split: dict(zip(self.labels, class_counts(data, len(self.labels)), strict=True))
            for split, data in self.splits.items()
        }


def class_counts(data: Dataset, classes: int) -> list[int]:
    """Examples of each class. `labels` has class indices, or one value per class, which counts from 0.5."""
    labels = np.asarray(data.with_format("arrow")[:]["labels"].to_pylist())
    if labels.ndim == 2:
        return (labels >= 0.5).sum(axis=0).tolist()
    return np.bincount(labels[labels >= 0].astype(int), minlength=classes)[:classes].tolist()


def cache_dir(*parts: str) -> Path:
    """
    A folder of hf_fer under the Hugging Face cache, created if it does not exist.

    Raises:
        DataError: the folder is not writable.
    """
    folder = Path(HF_HOME, "hf_fer", *parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise DataError(
            f"The cache {folder} cannot be written to ({error.strerror}). Set the environment variable HF_HOME to a "
            "writable folder on a disk with free space: HF_HOME=/some/folder."
        ) from error
    return folder


def recall(name: str) -> dict[str, Any]:
    """Entries that earlier runs stored in a JSON file of the cache; empty if it is missing, damaged or no object."""
    try:
        found = json.loads((cache_dir() / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(name: str, new: dict[str, Any]) -> None:
    """Add entries to a file that `recall` reads; entries that other runs add at the same time are kept."""
    if new:
        file = cache_dir() / name
        with FileLock(f"{file}.lock"):
            write_json_atomically(file, recall(name) | new)


def is_leaky(protocol: str) -> bool:
    """Whether a protocol (with or without its fold) may put a group in two splits: its name ends in `_leaky`."""
    return protocol.partition(",")[0].endswith("_leaky")


def warned(note: str) -> list[str]:
    """Log a note as a warning, and return it as a list of notes for report and card."""
    logger.warning(note)
    return [note]


def group_disjoint_split(
    rows: pd.DataFrame,
    *,
    label: str,
    group: str | None,
    seed: int,
    num_folds: int = 7,
    held_out: tuple[str, ...] = ("test", "validation"),
) -> pd.Series:
    """
    Split rows about 5 : 1 : 1 with each group in one split, stratified by label if a class has enough examples.

    Args:
        rows: One row per example.
        label: Name of the label column.
        group: Name of the group column (speaker, patient, source), or `None` to stratify only.
        seed: Seed by which groups are assigned to splits.
        num_folds: Number of folds to draw: one for each name in `held_out`, the others for training.
        held_out: Names of the splits beside `"train"`.

    Returns:
        `"train"` or a name in `held_out` for each row.

    Raises:
        DataError: there are fewer groups than splits or, without groups, too few examples.
    """
    if group is None:
        return random_split(rows, label=label, seed=seed, held_out=held_out)
    num_groups, least = rows[group].nunique(), len(held_out) + 1
    if num_groups < least:
        raise DataError(
            f"A group-disjoint split needs at least {least} groups in column {group!r}, found {num_groups}. "
            "Give a 'split' column, or ask for protocol 'random_leaky' by name."
        )
    num_folds = min(num_folds, num_groups)
    enough = rows[label].value_counts().max() >= num_folds
    strata = rows[label] if enough else pd.Series(0, index=rows.index)
    return fold_numbers(strata, rows[group], num_folds, seed).map(dict(enumerate(held_out))).fillna("train")


def fold_numbers(strata: pd.Series, groups: pd.Series, num_folds: int, seed: int) -> pd.Series:
    """
    Assign each row a fold, from 0, with whole groups per fold and strata balanced as far as groups allow.

    Up to `MANY_GROUPS` groups this is scikit-learn's `StratifiedGroupKFold`, which compares every group with every
    fold and takes about a millisecond per group. More groups are shuffled, sorted by stratum and size, and assigned
    to the folds in turn.
    """
    if groups.nunique() <= MANY_GROUPS:
        folds = StratifiedGroupKFold(n_splits=num_folds, shuffle=True, random_state=seed)
        fold_of = pd.Series(0, index=strata.index)
        for fold, (_, chosen) in enumerate(folds.split(strata, strata, groups)):
            fold_of.iloc[chosen] = fold
        return fold_of
    codes, names = pd.factorize(groups)
    sizes = pd.DataFrame({"group": codes, "stratum": pd.factorize(strata)[0]}).value_counts().reset_index()
    sizes = sizes.sort_values(["count", "group"], ascending=[False, True], kind="stable")
    dealt = sizes.drop_duplicates("group").assign(size=np.bincount(codes)[sizes.drop_duplicates("group")["group"]])
    dealt = dealt.sort_values("group").sample(frac=1, random_state=seed)
    dealt = dealt.sort_values(["stratum", "size"], ascending=[True, False], kind="stable")
    fold_by_group = np.empty(len(names), dtype=int)
    fold_by_group[dealt["group"]] = np.arange(len(names)) % num_folds
    return pd.Series(fold_by_group[codes], index=strata.index)


def group_folds(rows: pd.DataFrame, *, label: str, group: str, num_folds: int, seed: int) -> pd.Series:
    """
    Assign each row a fold, from 0, balanced by label as far as whole groups allow.

    Raises:
        DataError: there are fewer groups than folds, or every class has fewer examples than there are folds.
    """
    num_groups = rows[group].nunique()
    if num_groups < num_folds or rows[label].value_counts().max() < num_folds:
        most = rows[label].value_counts().max()
        raise DataError(
            f"{num_folds} folds are too many: there are {num_groups} groups in column {group!r}, and at most {most} "
            "examples of a class. Lower num_folds."
        )
    return fold_numbers(rows[label], rows[group], num_folds, seed)


def fold_splits(fold_of: pd.Series, fold: int, num_folds: int) -> pd.Series:
    """
    The splits of one round of cross-validation: fold `fold` is test, the next one validation, the others training.

    Args:
        fold_of: Fold of each row, from 0.
        fold: Number of the test fold, from 0.
        num_folds: Number of folds.

    Raises:
        DataError: there is no such fold.
    """
    if not 0 <= fold < num_folds:
        raise DataError(f"fold must be 0 to {num_folds - 1}, or 'all', got {fold}.")
    names = {fold: "test", (fold + 1) % num_folds: "validation"}
    return fold_of.map(lambda own: names.get(own, "train"))


def random_split(
    rows: pd.DataFrame, *, label: str, seed: int, held_out: tuple[str, ...] = ("test", "validation")
) -> pd.Series:
    """
    Split rows 70 : 15 : 15, or 85 : 15, at random, stratified by label where each class has enough examples.

    Raises:
        DataError: there are fewer than four rows, or fewer than two with one held-out split.
    """
    if len(rows) < 2 * len(held_out):
        raise DataError(f"{len(rows)} examples are too few to split. Give a 'split' column.")

    def divide(part: pd.DataFrame, fraction: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        enough = part[label].value_counts().min() >= 2 and len(part) * fraction >= part[label].nunique()
        return train_test_split(part, test_size=fraction, random_state=seed, stratify=part[label] if enough else None)

    _, rest = divide(rows, 0.15 * len(held_out))
    split = pd.Series("train", index=rows.index)
    parts = divide(rest, 0.5) if len(held_out) > 1 else [rest]
    for name, part in zip(reversed(held_out), parts, strict=True):
        split[part.index] = name
    return split


def check_groups(
    rows: pd.DataFrame, *, group: str, split: str = "split", leaky_protocol: str = "manifest_leaky"
) -> None:
    """
    Check that no group is in two splits.

    Args:
        rows: One row per example.
        group, split: Names of the columns.
        leaky_protocol: Name of the protocol that the message offers as a way out.

    Raises:
        DataError: groups are in several splits; the message names up to five.
    """
    pairs = rows[[group, split]].drop_duplicates()
    pairs = pairs[pairs[group].duplicated(keep=False)]
    shared = pairs.groupby(group)[split].agg(sorted)
    if len(shared):
        examples = ", ".join(f"{name} ({' and '.join(values)})" for name, values in shared.head(5).items())
        raise DataError(
            f"{len(shared)} values of {group!r} are in more than one split: {examples}. Scores would be inflated. "
            f"Correct the split column, or ask for protocol {leaky_protocol!r} by name; reports then say so."
        )


def normalize_splits(values: pd.Series, source: str) -> pd.Series | None:
    """
    Convert usual spellings of split names to `SPLITS`; `None` where the column is empty.

    Raises:
        DataError: a name is unknown, or only some rows have one; the message has the row.
    """
    values = clean_names(values)
    lacking = values.isna().to_numpy()
    if lacking.all():
        return None
    if lacking.any():
        raise DataError(
            f"{source}: row {int(lacking.argmax()) + 1} has no split, though others have ({int(lacking.sum())} such "
            "rows): fill it in for all, or leave the column out."
        )
    names = values.astype(str).str.lower().replace(SPLIT_ALIASES)
    unknown = (~names.isin(SPLITS)).to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        raise DataError(f"{source}: row {row + 1} has split {names.iloc[row]!r}; use one of {SPLITS}.")
    return names


def take_subset(
    rows: pd.DataFrame,
    *,
    label: str,
    seed: int,
    train_fraction: float = 1.0,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
) -> pd.DataFrame:
    """
    Draw a subset of each split, seeded and stratified by label; the remaining rows keep their order.

    Raises:
        DataError: the fraction is not in (0, 1].
    """
    if not 0 < train_fraction <= 1:
        raise DataError(f"train_fraction must be in (0, 1], got {train_fraction}.")
    kept = []
    for split, part in rows.groupby("split", sort=False):
        wanted = len(part)
        if split == "train":
            wanted = min(max(round(wanted * train_fraction), 1), max_train_samples or wanted)
        else:
            wanted = min(wanted, max_eval_samples or wanted)
        kept.append(stratified_sample(part, wanted, label=label, seed=seed))
    return pd.concat(kept).sort_index() if kept else rows


def stratified_sample(part: pd.DataFrame, count: int, *, label: str, seed: int) -> pd.DataFrame:
    """Draw `count` rows in the order of `part`, with the class proportions of `part` as closely as possible."""
    if count >= len(part):
        return part
    shuffled = part.sample(frac=1, random_state=seed)
    rank = shuffled.groupby(label).cumcount()
    size = shuffled[label].map(shuffled[label].value_counts())
    return part.loc[((rank + 0.5) / size).sort_values(kind="stable").index[:count].sort_values()]


def digest(facts: Any) -> str:
    """SHA-256, in hexadecimal, of a value's JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def file_facts(path: str | Path) -> list[str | int] | None:
    """Full path, size and modification time of a file, which identify its state; `None` if there is no file."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):  # a name with a zero byte
        return None
    return [os.path.abspath(path), stat.st_size, stat.st_mtime_ns]


@dataclass
class FileCheck:
    """
    Checks media files before training. Files that passed are not checked again until they change.

    Args:
        check: Takes a path and the wanted stream (`"audio"`, for example); returns why it is unusable, or `None`.
        settings: Other settings on which the result depends.
        workers: Number of threads; decoders release the GIL.
    """

    MEMORY: ClassVar[str] = "checked.json"

    check: Callable[[str, str], str | None]
    settings: dict[str, Any]
    workers: int = 4

    def _key(self, path: str, wanted: str) -> str | None:
        facts = file_facts(path)
        return facts and digest([*facts, wanted, self.settings])

    def reasons(self, items: list[tuple[str, str]]) -> list[str | None]:
        """Why each `(path, wanted)` is unusable, or `None`, in order."""
        good = recall(self.MEMORY)
        keys = [self._key(*item) for item in items]
        unknown = [index for index, key in enumerate(keys) if key not in good]
        answers: list[str | None] = [None] * len(items)
        with ThreadPoolExecutor(self.workers) as pool:
            found = pool.map(lambda index: self.check(*items[index]), unknown)
            for index, reason in zip(unknown, progress(found, "Checking files", len(unknown)), strict=True):
                answers[index] = reason
        remember(self.MEMORY, {keys[index]: True for index in unknown if keys[index] and answers[index] is None})
        return answers


def write_json_atomically(path: Path, value: Any, indent: int | None = None) -> None:
    """Write a value as JSON with `write_atomically`."""
    write_atomically(path, json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see either the old or the complete new one; permissions follow the umask."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def optional_column(values: Iterable[Any], index: pd.Index) -> pd.Series:
    """A column with `None` for missing values; pandas would infer a string column with NaN, which is truthy."""
    return pd.Series([None if pd.isna(value) else value for value in values], index=index, dtype=object)


def group_column(values: pd.Series, source: str) -> pd.Series | None:
    """
    A column of group names in normalised spelling (`clean_name`), or `None` where the column is empty.

    Raises:
        DataError: some rows lack a group, so that they cannot be assigned to a split.
    """
    values = clean_names(values)
    lacking = values.isna()
    if lacking.all():
        return None
    if lacking.any():
        raise DataError(
            f"{source}: row {int(lacking.idxmax()) + 1} has no {values.name}, though others have "
            f"({int(lacking.sum())} such rows): fill it in for all, or leave the column out."
        )
    return values.astype(str)


def to_splits(rows: pd.DataFrame) -> DatasetDict:
    """A table with a `split` column as a `DatasetDict`, in the order train, validation, test."""
    rows = rows.reset_index(drop=True)
    rows["index"] = rows.index
    present = [split for split in SPLITS if (rows["split"] == split).any()]
    return DatasetDict(
        {
            split: Dataset.from_pandas(rows[rows["split"] == split].drop(columns="split"), preserve_index=False)
            for split in present
        }
    )
