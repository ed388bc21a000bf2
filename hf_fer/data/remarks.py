"""What a data set gives away once it is loaded: names that look alike, classes that a split lacks."""

from hf_fer.data.loading import DataError, LoadedData, warned
from hf_fer.data.names import look_alike_notes

LISTED_CLASSES = 30


def with_remarks(data: LoadedData, *, group: str = "group", learns_classes: bool = True) -> LoadedData:
    """
    The data, with notes for the report on what of its labels, groups and splits a reader has to know.

    Args:
        data: As a task loaded it.
        group: The column of its groups, if it has one.
        learns_classes: Whether each example has one class that is to be learnt.

    Raises:
        DataError: the training split has a single class.
    """
    counts = data.counts()
    if learns_classes and "train" in counts:
        check_classes(counts["train"])
    data.notes += look_alike_notes(data.labels, "label")
    groups = {name for split in data.splits.values() if group in split.column_names for name in split[group]}
    data.notes += look_alike_notes(groups - {None}, group)
    for split in ("validation", "test"):
        if split in counts:
            data.notes += absent_class_notes(split, counts[split])
    return data


def check_classes(counts: dict[str, int]) -> None:
    """
    Make sure that there is something to tell apart.

    Args:
        counts: Training examples of each class.

    Raises:
        DataError: all examples are of one class.
    """
    present = [name for name, count in counts.items() if count]
    if len(present) < 2:
        raise DataError(
            f"All {sum(counts.values())} training examples are of the class {', '.join(map(repr, present))}: whatever "
            "the model answers, it would be right. Training takes examples of at least two classes; look at the label "
            "column, the splits, and max_train_samples."
        )


def class_order(labels: list[str], known: list[str], training: bool) -> list[str]:
    """
    The classes in a checkpoint's order, where they are its own or, in evaluation, a part of its own; else as they are.

    Args:
        labels: Of the data.
        known: Of the checkpoint, in the order of its logits; empty where there is none.
        training: Whether it is to be trained.
    """
    same, part = set(labels) == set(known), set(labels) <= set(known)
    return list(known) if same or (part and not training) else labels


def absent_class_notes(split: str, counts: dict[str, int]) -> list[str]:
    """A note on the classes of which a split that is scored has no example."""
    absent = [name for name, count in counts.items() if not count]
    if not absent:
        return []
    present = [name for name, count in counts.items() if count]
    return warned(
        f"The {split} split has {len(present)} of the {len(counts)} classes ({_listed(present)}) and no example of "
        f"{_listed(absent)}: averages over classes, such as UAR, are over those that it has."
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED_CLASSES} more" if len(names) > LISTED_CLASSES else ""
    return ", ".join(names[:LISTED_CLASSES]) + more
