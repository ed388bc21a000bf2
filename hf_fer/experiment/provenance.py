"""Digests of the data that a model was trained and chosen on, saved with it and compared with later test splits."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import cached_file

from hf_fer.data.copies import content_digests, text_digest
from hf_fer.data.loading import DataError, LoadedData, digest, is_leaky, warned, write_json_atomically
from hf_fer.data.names import clean_name
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.task.settings import starting_points

if TYPE_CHECKING:
    from hf_fer.task.base import Task

FILE = "provenance.json"


@dataclass
class Contents:
    """
    Digests of one split.

    Args:
        groups: Digests of the names of its groups (`clean_name`); empty where the data has none.
        examples: Digests of its examples' files and texts.
    """

    groups: set[str] = field(default_factory=set)
    examples: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, list[str]]:
        """Digests as sorted lists, so that their order reveals nothing about the data."""
        return {"groups": sorted(self.groups), "examples": sorted(self.examples)}

    @classmethod
    def from_json(cls, fields: dict[str, list[str]]) -> "Contents":
        """Inverse of `to_json`."""
        return cls(set(fields["groups"]), set(fields["examples"]))


@dataclass
class Provenance:
    """
    Data that a run's model was trained and chosen on.

    Args:
        own: Data of this run: `task`, `protocol`, `split_seed`, `labels` in order, `order` (digest of the training
            examples with their targets, in order), and `train` and `validation` as `Contents`.
        earlier: The same for every earlier training of the models that this run starts from, oldest first.
        apart: Whether it is known that the model was not trained or chosen on the groups of the present test split.
    """

    own: dict[str, Any]
    earlier: list[dict[str, Any]] = field(default_factory=list)
    apart: bool = False

    def write(self, folder: str | Path) -> None:
        """Write `provenance.json` into a model's folder."""
        write_json_atomically(Path(folder, FILE), {"trainings": [*self.earlier, self.own]})


def contents(task: "Task", split: Dataset) -> tuple[Contents, pd.Series]:
    """Digests of a split, and the list of digests of each of its rows."""
    columns = {*task.file_columns, *task.text_columns, task.group_column, "path"} & set(split.column_names)
    rows = split.select_columns(sorted(columns)).to_pandas()
    digests = content_digests(rows, task.file_columns, task.text_columns)
    groups: set[str] = set()
    if task.group_column in rows:
        named = rows[task.group_column].dropna()
        # A text without a source has its own path as group, which is no speaker or source.
        named = named[named != rows["path"]] if "path" in rows else named
        groups = {text_digest(clean_name(name)) for name in named.unique()}
    return Contents(groups, {part for parts in digests for part in parts}), digests


def establish(task: "Task", data: LoadedData) -> Provenance:
    """
    Collect the data that a run's model has seen, and compare it with the splits that are scored.

    Validation and test must not share groups or examples with the training split of an earlier training, nor test
    with its validation split. A note is added to the data if this is unknown, or if it is violated under a leaky
    protocol.

    Raises:
        DataError: a starting point has seen the present validation or test split.
        RecipeError: a starting point's `provenance.json` cannot be read.
    """
    found = {name: contents(task, split) for name, split in data.splits.items()}
    present = {name: own for name, (own, _) in found.items()}
    trained = {name: present.get(name, Contents()) for name in ("train", "validation")}
    order = (
        [] if "train" not in found else [found["train"][1].tolist(), list(data.splits["train"][task.target_column])]
    )
    own = {
        "task": task.name(),
        "protocol": data.protocol,
        "split_seed": task.data_args.split_seed,
        "labels": data.labels,
        "order": digest(order),
        **{name: part.to_json() for name, part in trained.items()},
    }
    provenance = Provenance(own)
    unknown = False
    for path in starting_points(task):
        earlier = read(path)
        provenance.earlier += [training for training in earlier or [] if training not in provenance.earlier]
        if earlier is None and path == task.model_args.model_name_or_path:
            unknown = True
            data.notes.append(
                f"{display_name(path)} has no {FILE}: it is unknown whether it was trained on the test examples."
            )
        compare(display_name(path), earlier or [], present, data)
    test = present.get("test", Contents())
    shared = test.groups & (trained["train"].groups | trained["validation"].groups)
    provenance.apart = bool(test.groups) and not shared and not unknown and not is_leaky(data.protocol)
    return provenance


def compare(name: str, trainings: list[dict[str, Any]], present: dict[str, Contents], data: LoadedData) -> None:
    """
    Compare the data that a model has seen with the splits that are scored.

    Args:
        name: Name of the model in messages.
        trainings: Trainings from its `provenance.json`.
        present: Split -> digests of this run's data.
        data: Data of this run; under a leaky protocol, an overlap is added to its notes.

    Raises:
        DataError: they overlap, and the protocol is not leaky.
    """
    train, chosen = seen(trainings, "train"), seen(trainings, "validation")
    for split, before, how in (
        ("validation", train, "trained"),
        ("test", train, "trained"),
        ("test", chosen, "chosen"),
    ):
        own = present.get(split, Contents())
        groups, examples = len(own.groups & before.groups), len(own.examples & before.examples)
        if not groups and not examples:
            continue
        what = (
            f"{name} was {how} on {groups} of the {len(own.groups)} groups and {examples} of the {len(own.examples)} "
            f"files or texts of the present {split} split"
        )
        if is_leaky(data.protocol):
            data.notes += warned(f"LEAKY: {what}. These scores are inflated.")
            continue
        last = trainings[-1]
        raise DataError(
            f"{what}, by the digests in its {FILE}: a score there would be inflated. Use the splits that it was "
            f"trained with (protocol {last['protocol']!r}, split_seed {last['split_seed']}), start from "
            "another model, or ask by name for a protocol that ends in _leaky; reports then say so. If these are "
            "other people who have the same names, give the groups other names."
        )


def seen(trainings: list[dict[str, Any]], split: str) -> Contents:
    """Digests of a split, united over all trainings."""
    parts = [Contents.from_json(training[split]) for training in trainings]
    return Contents(set().union(*(part.groups for part in parts)), set().union(*(part.examples for part in parts)))


def read(path: str | Path) -> list[dict[str, Any]] | None:
    """
    The trainings that a model has gone through, or `None` where it has no `provenance.json`.

    Args:
        path: Folder, file of weights, or Hub repository.

    Raises:
        RecipeError: its `provenance.json` cannot be read.
    """
    place = Path(path)
    if place.exists():
        file = (place if place.is_dir() else place.parent) / FILE
    else:
        found = cached_file(
            str(path),
            FILE,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        file = Path(found) if found else place
    if not file.is_file():
        return None
    try:
        trainings = json.loads(file.read_text(encoding="utf-8"))["trainings"]
        for split in ("train", "validation"):
            seen(trainings, split)
        return trainings
    except (ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{file}: cannot be read ({error!r}), so it is unknown what this model was trained on. Restore it, or "
            "remove it to continue without it; reports then say so."
        ) from error


def display_name(path: str) -> str:
    """The name of a Hub repository as it is, or the last component of a local path."""
    return Path(path).name if Path(path).exists() else path


def check_resumption(checkpoint: str | Path, own: dict[str, Any], max_lost: float) -> None:
    """
    Check that a resumed run has the data that it began with.

    Args:
        checkpoint: Checkpoint that the run resumes from.
        own: `Provenance.own` of the present run.
        max_lost: Fraction of the examples that may have become unusable since.

    Raises:
        RecipeError: task, protocol, split_seed, order of classes or examples are different.
    """
    trainings = read(checkpoint)
    if not trainings:
        warned(f"{checkpoint} has no {FILE}: it is unknown whether it was trained on this data.")
        return
    before = trainings[-1]
    reasons = [
        f"{name} was {before[name]!r}, now {own[name]!r}"
        for name in ("task", "protocol", "split_seed", "labels")
        if before[name] != own[name]
    ]
    for split in () if reasons else ("train", "validation"):
        reasons += changed_examples(split, before[split], own[split], max_lost)
    if not reasons and before["order"] != own["order"] and before["train"] == own["train"]:
        reasons.append("the training examples have other labels, or another order")
    if reasons:
        raise RecipeError(
            f"resume_from_checkpoint: {checkpoint} was trained on other data: {'; '.join(reasons)}. Resume with the "
            "recipe and data that it began with, or start a new run in another output_dir (--model_name_or_path takes "
            "its weights)."
        )


def changed_examples(
    split: str, before: dict[str, list[str]], now: dict[str, list[str]], max_lost: float
) -> list[str]:
    """A clause on the examples of a split, if any are new or more than the fraction `max_lost` is missing."""
    old, new = set(before["examples"]), set(now["examples"])
    lost, gained = len(old - new), len(new - old)
    if not gained and lost <= max_lost * len(old):
        return []
    return [f"of {len(old)} files or texts of {split}, {lost} are missing and {gained} are new"]


class ProvenanceCallback(TrainerCallback):
    """Writes `provenance.json` into every checkpoint, before the checkpoint's manifest."""

    def __init__(self, provenance: Provenance):
        self.provenance = provenance

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.should_save:
            self.provenance.write(Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))
