"""What a model was trained and chosen on, as digests: kept beside it, and compared with what it meets later."""

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
        groups: Of its groups' names (`clean_name`); empty where the data has none.
        examples: Of its examples' bytes or texts.
    """

    groups: set[str] = field(default_factory=set)
    examples: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, list[str]]:
        """Sorted, so that the order says nothing of the data."""
        return {"groups": sorted(self.groups), "examples": sorted(self.examples)}

    @classmethod
    def from_json(cls, fields: dict[str, list[str]]) -> "Contents":
        """What `to_json` made."""
        return cls(set(fields["groups"]), set(fields["examples"]))


@dataclass
class Provenance:
    """
    Where a run's model comes from.

    Args:
        own: What this run trains and chooses on: `task`, `protocol`, `split_seed`, `labels` in order, `order` (a
            digest of the training examples with their targets, in order), and `train` and `validation` as `Contents`.
        earlier: The same of every training that its starting points have behind them, the first one first.
        apart: Whether it is established that nothing was trained or chosen on the groups of the present test split.
    """

    own: dict[str, Any]
    earlier: list[dict[str, Any]] = field(default_factory=list)
    apart: bool = False

    def write(self, folder: str | Path) -> None:
        """Write `provenance.json` beside a model."""
        write_json_atomically(Path(folder, FILE), {"trainings": [*self.earlier, self.own]})


def contents(task: "Task", split: Dataset) -> tuple[Contents, pd.Series]:
    """A split's digests, and those of each row."""
    columns = {*task.file_columns, *task.text_columns, task.group_column, "path"} & set(split.column_names)
    rows = split.select_columns(sorted(columns)).to_pandas()
    digests = content_digests(rows, task.file_columns, task.text_columns)
    groups: set[str] = set()
    if task.group_column in rows:
        named = rows[task.group_column].dropna()
        # A text without a source has its own place for one, which tells nothing of where it is from.
        named = named[named != rows["path"]] if "path" in rows else named
        groups = {text_digest(clean_name(name)) for name in named.unique()}
    return Contents(groups, {part for parts in digests for part in parts}), digests


def establish(task: "Task", data: LoadedData) -> Provenance:
    """
    Find out what a run's model has seen, before and now, and compare it with the splits that are scored.

    Validation and test must hold nothing that an earlier training trained on, and test nothing that one was chosen on.
    A note is added to the data where this cannot be told and, under a protocol that leaks by name, where it is not so.

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
                f"{display_name(path)} has no {FILE}: nothing says whether it was trained on what it is tested on."
            )
        compare(display_name(path), earlier or [], present, data)
    test = present.get("test", Contents())
    shared = test.groups & (trained["train"].groups | trained["validation"].groups)
    provenance.apart = bool(test.groups) and not shared and not unknown and not is_leaky(data.protocol)
    return provenance


def compare(name: str, trainings: list[dict[str, Any]], present: dict[str, Contents], data: LoadedData) -> None:
    """
    Compare what a model has seen with the splits that are scored.

    Args:
        name: What messages call the model.
        trainings: From its `provenance.json`.
        present: The run's splits.
        data: Gets the note of a leaky protocol.

    Raises:
        DataError: they overlap, and the protocol is not one that leaks by name.
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
            f"{what}, by the digests in its {FILE}: a score there would be of what it has seen. Use the splits that "
            f"it was trained with (protocol {last['protocol']!r}, split_seed {last['split_seed']}), start from "
            "another model, or ask by name for a protocol that ends in _leaky; reports then say so. If these are "
            "other people who have the same names, give the groups other names."
        )


def seen(trainings: list[dict[str, Any]], split: str) -> Contents:
    """Everything that a split held in any of the trainings."""
    parts = [Contents.from_json(training[split]) for training in trainings]
    return Contents(set().union(*(part.groups for part in parts)), set().union(*(part.examples for part in parts)))


def read(path: str | Path) -> list[dict[str, Any]] | None:
    """
    The trainings behind a model; `None` where nothing tells.

    Args:
        path: A folder, a file of weights, or a Hub repository.

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
            f"{file}: cannot be read ({error!r}), so nothing says what this model was trained on. Restore it, or "
            "remove it to go on without; reports then say so."
        ) from error


def display_name(path: str) -> str:
    """A Hub repository as it is, of a path on this machine its last part."""
    return Path(path).name if Path(path).exists() else path


def check_resumption(checkpoint: str | Path, own: dict[str, Any], max_lost: float) -> None:
    """
    Make sure that a run goes on with what it began with.

    Args:
        checkpoint: What it resumes from.
        own: `Provenance.own` of the present run.
        max_lost: Part of the examples that may have become unusable since.

    Raises:
        RecipeError: another task, protocol, split_seed, order of classes, or other examples.
    """
    trainings = read(checkpoint)
    if not trainings:
        warned(f"{checkpoint} has no {FILE}: nothing says whether it was trained on this data.")
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
            "recipe and data that it began with, or start anew in another output_dir (--model_name_or_path takes its "
            "weights)."
        )


def changed_examples(
    split: str, before: dict[str, list[str]], now: dict[str, list[str]], max_lost: float
) -> list[str]:
    """What to say of examples that a split has gained, or has lost more of than may become unusable."""
    old, new = set(before["examples"]), set(now["examples"])
    lost, gained = len(old - new), len(new - old)
    if not gained and lost <= max_lost * len(old):
        return []
    return [f"of {len(old)} files or texts of {split} {lost} are gone, and {gained} are new"]


class ProvenanceCallback(TrainerCallback):
    """Puts `provenance.json` into every checkpoint, before it is declared whole."""

    def __init__(self, provenance: Provenance):
        self.provenance = provenance

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.should_save:
            self.provenance.write(Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))
