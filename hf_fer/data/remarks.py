"""Notes on a loaded data set: names that look alike, and classes that a split lacks."""

from hf_fer.data.loading import DataError, LoadedData, warned
from hf_fer.data.names import look_alike_notes

LISTED_CLASSES = 30


def with_remarks(data: LoadedData, *, group: str = "group", learns_classes: bool = True) -> LoadedData:
    """
    Add notes for the report on suspicious labels, groups and splits.

    Args:
        data: Data that a task has loaded; its notes are extended.
        group: Name of the group column, which may be missing.
        learns_classes: Whether the target of each example is one class.

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
    Check that the training split has at least two classes.

    Args:
        counts: Class -> number of training examples.

    Raises:
        DataError: all examples are of one class.
    """
    present = [name for name, count in counts.items() if count]
    if len(present) < 2:
        raise DataError(
            f"All {sum(counts.values())} training examples are of the class {', '.join(map(repr, present))}. Training "
            "needs examples of at least two classes; look at the label column, the splits, and max_train_samples."
        )


def class_order(labels: list[str], known: list[str], training: bool) -> list[str]:
    """
    Order of the classes: that of the checkpoint if it has the same classes, or all of them in evaluation.

    Args:
        labels: Classes of the data.
        known: Classes of the checkpoint, in the order of its logits; empty where there is none.
        training: Whether the run trains.

    Returns:
        `known`, or `labels` where the checkpoint has other classes.
    """
    same, part = set(labels) == set(known), set(labels) <= set(known)
    return list(known) if same or (part and not training) else labels


def absent_class_notes(split: str, counts: dict[str, int]) -> list[str]:
    """A note on the classes without an example in a split that is scored; empty if there are none."""
    absent = [name for name, count in counts.items() if not count]
    if not absent:
        return []
    present = [name for name, count in counts.items() if count]
    return warned(
        f"The {split} split has {len(present)} of the {len(counts)} classes ({_listed(present)}) and no example of "
        f"{_listed(absent)}: averages over classes, such as UAR, leave these out."
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED_CLASSES} more" if len(names) > LISTED_CLASSES else ""
    return ", ".join(names[:LISTED_CLASSES]) + more
