"""Splits of texts: seeded, stratified, by source, and without copies on both sides."""

import pandas as pd
import pytest

from hf_fer.data.loading import DataError
from hf_fer.models.language_id.train.text_splits import LEAKY_NOTE, assign_splits, draw_splits, drop_near_duplicates

SIZES = {"validation_fraction": 0.1, "test_fraction": 0.1}


def make_rows(per_label=40, labels=("en", "vi", "ja")):
    return pd.DataFrame(
        [(f"{label} text number {number}", label) for label in labels for number in range(per_label)],
        columns=["text", "label"],
    )


def test_drawn_splits_are_stratified_seeded_and_stable():
    rows = make_rows()
    split = draw_splits(rows, 0, 0.1, 0.1)
    assert pd.crosstab(rows["label"], split).to_numpy().tolist() == [[4, 32, 4]] * 3
    assert split.equals(draw_splits(rows, 0, 0.1, 0.1))
    assert not split.equals(draw_splits(rows, 1, 0.1, 0.1))
    moved = draw_splits(rows.iloc[::-1].drop(index=5), 0, 0.1, 0.1)
    assert (moved == split.loc[moved.index]).mean() > 0.95


def test_a_label_with_one_text_is_in_training():
    rows = pd.concat([make_rows(), pd.DataFrame({"text": ["lone"], "label": ["fr"]})], ignore_index=True)
    assert draw_splits(rows, 0, 0.1, 0.1).iloc[-1] == "train"


def test_sources_stay_on_one_side():
    rows = make_rows().assign(source=lambda table: [f"site {index % 20}" for index in table.index])
    rows, notes = assign_splits(rows, protocol="disjoint", seed=0, **SIZES)
    assert rows.groupby("source")["split"].nunique().max() == 1
    assert set(rows["split"]) == {"train", "validation", "test"}
    assert notes == []
    rows, notes = assign_splits(rows.drop(columns="split"), protocol="random_leaky", seed=0, **SIZES)
    assert rows.groupby("source")["split"].nunique().max() > 1
    assert notes == [LEAKY_NOTE]


def test_given_splits_are_checked():
    rows = make_rows(2).assign(source="a.org", split=["train", "test"] * 3)
    with pytest.raises(DataError, match=r"a.org \(test and train\)"):
        assign_splits(rows, protocol="disjoint", seed=0, **SIZES)
    kept, notes = assign_splits(rows, protocol="given_leaky", seed=0, **SIZES)
    assert kept["split"].tolist() == ["train", "test"] * 3
    assert notes == [LEAKY_NOTE]


@pytest.mark.parametrize(
    ("protocol", "sizes", "message"),
    [("other", SIZES, "Unknown protocol"), ("given_leaky", SIZES, "needs a 'split' column"),
     ("disjoint", {"validation_fraction": 0.5, "test_fraction": 0.5}, "must leave something to train on")],
)  # fmt: skip
def test_bad_requests(protocol, sizes, message):
    with pytest.raises(DataError, match=message):
        assign_splits(make_rows(), protocol=protocol, seed=0, **sizes)


def test_near_duplicates_leave_training_first():
    news = "The committee met on Tuesday and agreed on a plan for the old harbour by the river"
    rows = pd.DataFrame(
        [
            (news, "en", "test"),
            (f"{news}!", "en", "validation"),
            (f"12. {news.upper()}", "en", "train"),
            (f"{news} mouth", "de", "train"),
            ("Something else altogether was said about bicycles", "en", "train"),
            ("日本", "ja", "train"),
        ],
        columns=["text", "label", "split"],
    )
    kept, counts = drop_near_duplicates(rows, 0.8)
    assert kept.index.tolist() == [0, 4, 5]
    assert counts == {"test": 0, "validation": 1, "train": 2}
