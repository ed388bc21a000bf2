"""Data sets of the Hub as tables: one per split, with class names instead of numbers and media left undecoded."""

from typing import Any

import pandas as pd
from datasets import Audio, ClassLabel, Dataset, Video

from hf_fer.data.hub import read_dataset

MEDIA = {"audio": Audio, "video": Video}


def read_hub(name: str) -> dict[str | None, pd.DataFrame]:
    """
    Split -> table of a Hub data set. The key of a single split is `None`, because its name means nothing.

    Class numbers become names, and negative ones `None`. Sound and video are `{"path", "bytes"}`; a split's only
    column of either kind is also available as `audio` or `video`. `row` has the split and the row's number from 1.

    Raises:
        DataError: it cannot be loaded; see `hub.read_dataset`.
    """
    splits = read_dataset(name)
    return {split if len(splits) > 1 else None: _table(data, split) for split, data in splits.items()}


def _table(data: Dataset, split: str) -> pd.DataFrame:
    features = dict(data.features)
    columns = {kind: [name for name, own in features.items() if isinstance(own, of)] for kind, of in MEDIA.items()}
    for kind, names in columns.items():
        for name in names:
            data = data.cast_column(name, MEDIA[kind](decode=False))
    table = data.to_pandas()
    for name, feature in features.items():
        if isinstance(feature, ClassLabel):
            table[name] = [class_name(value, feature) for value in table[name]]
    for kind, names in columns.items():
        if len(names) == 1 and kind not in table:
            table[kind] = table[names[0]]
    return table.assign(row=[f"{split} row {number}" for number in range(1, len(table) + 1)])


def class_name(value: Any, feature: ClassLabel) -> str | None:
    """The name of a class number; `None` for a missing number and for -1, which unlabelled test sets have."""
    return None if pd.isna(value) or value < 0 else feature.names[int(value)]
