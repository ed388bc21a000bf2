"""Copies across splits leave training whatever their names; what a data set lacks is said, or refused."""

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from hf_fer.data.copies import drop_copies
from hf_fer.data.loading import DataError, LoadedData, is_leaky
from hf_fer.data.remarks import with_remarks
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import parse_task


@pytest.fixture
def rows(tmp_path):
    """Six files; `again` has the bytes of the test's, `kept` those of validation's."""
    content = {"one": b"1", "two": b"2", "again": b"test", "kept": b"val", "val": b"val", "test": b"test"}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    splits = ["train"] * 4 + ["validation", "test"]
    return pd.DataFrame({"path": [str(tmp_path / name) for name in content], "split": splits})


def test_copies_under_other_names_leave_training(rows):
    kept, notes = drop_copies(rows, ["path"])
    assert [path.rsplit("/", 1)[-1] for path in kept["path"]] == ["one", "two", "val", "test"]
    assert notes == ["Dropped because they are byte-for-byte copies of examples in a later split: 2 of train."]
    assert drop_copies(kept, ["path"])[1] == []


def test_one_file_in_two_splits_leaves_the_earlier(rows):
    rows.loc[4, "path"] = rows.loc[5, "path"]
    kept, notes = drop_copies(rows, ["path"])
    assert kept["split"].tolist() == ["train", "train", "train", "test"]
    assert "1 of train and 1 of validation" in notes[0]


def test_a_file_that_changes_is_read_again(rows, tmp_path):
    drop_copies(rows, ["path"])
    (tmp_path / "one").write_bytes(b"test")
    assert "3 of train" in drop_copies(rows, ["path"])[1][0]


def test_a_leaky_protocol_keeps_copies_and_says_so(rows):
    kept, notes = drop_copies(rows, ["path"], leaky=is_leaky("manifest_leaky"))
    assert len(kept) == 6
    assert notes[0].startswith("LEAKY")
    assert not is_leaky("group_kfold, fold 1")


def test_texts_are_compared_as_they_are():
    rows = pd.DataFrame({"text": ["a", "b", "a"], "split": ["train", "train", "test"]})
    kept, _ = drop_copies(rows, (), text_columns=["text"])
    assert kept["text"].tolist() == ["b", "a"]


def loaded(**labels: list[int]) -> LoadedData:
    splits = {name: Dataset.from_dict({"labels": own, "group": [name] * len(own)}) for name, own in labels.items()}
    return LoadedData(DatasetDict(splits), ["angry", "happy", "sad"], "manifest")


def test_one_class_in_training_is_refused():
    with pytest.raises(DataError, match="All 3 training examples are of the class 'happy'"):
        with_remarks(loaded(train=[1, 1, 1], test=[0, 1]))


def test_a_class_that_a_split_lacks_is_told_of():
    data = with_remarks(loaded(train=[0, 1, 2], validation=[0, 0], test=[0, 1, 2]))
    assert len(data.notes) == 1
    assert "The validation split has 1 of the 3 classes (angry) and no example of happy, sad" in data.notes[0]


def test_names_that_look_alike_are_told_of():
    data = loaded(train=[0, 1, 2], Train=[0, 1, 2])
    assert "'Train' and 'train'" in with_remarks(data).notes[0]


@pytest.mark.parametrize("task", ["multimodal_fer", "language_id", "csr"])
def test_a_fold_of_a_protocol_without_folds_is_refused(task, tmp_path):
    with pytest.raises(RecipeError, match="fold 2 needs a protocol that has folds"):
        parse_task(["--task", task, "--dataset", "demo", "--output_dir", str(tmp_path), "--fold", "2"])
