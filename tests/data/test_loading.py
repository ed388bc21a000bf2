"""Splits, subsets, checks and tables."""

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_fer.data import loading
from hf_fer.data.loading import DataError, FileCheck


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "label": generator.choice(list("abc"), 600, p=[0.6, 0.3, 0.1]),
            "group": generator.integers(0, 30, 600).astype(str),
        }
    )


def test_no_group_is_on_two_sides(rows):
    split = loading.group_disjoint_split(rows, label="label", group="group", seed=0)
    assert set(split) == {"train", "validation", "test"}
    assert rows.assign(split=split).groupby("group")["split"].nunique().max() == 1
    assert 0.6 < (split == "train").mean() < 0.85
    again = loading.group_disjoint_split(rows, label="label", group="group", seed=0)
    assert (split == again).all()
    assert (split != loading.group_disjoint_split(rows, label="label", group="group", seed=1)).any()


@pytest.mark.parametrize("rows_per_group", [1, 3])
def test_many_groups_are_split_in_time_that_grows_with_the_rows(rows_per_group):
    count = 60_000
    generator = np.random.default_rng(0)
    many = pd.DataFrame(
        {
            "label": generator.choice(list("abc"), count, p=[0.6, 0.3, 0.1]),
            "group": [f"g{row // rows_per_group}" for row in range(count)],
        }
    )
    started = time.process_time()
    split = loading.group_disjoint_split(many, label="label", group="group", seed=0)
    assert time.process_time() - started < 5  # scikit-learn's way takes a minute
    assert many.assign(split=split).groupby("group")["split"].nunique().max() == 1
    shares = pd.crosstab(many["label"], split, normalize="index")
    assert (shares["test"] - 1 / 7).abs().max() < 0.01
    assert (shares["validation"] - 1 / 7).abs().max() < 0.01
    again = loading.group_disjoint_split(many, label="label", group="group", seed=0)
    assert (split == again).all()
    assert (split != loading.group_disjoint_split(many, label="label", group="group", seed=1)).any()
    loading.check_groups(many.assign(split=split), group="group")


def test_too_few_groups(rows):
    with pytest.raises(DataError, match="at least 3 groups"):
        loading.group_disjoint_split(rows.assign(group="x"), label="label", group="group", seed=0)


def test_few_examples_of_each_class():
    """Eight patients, four classes of two: not enough to stratify by, but to split."""
    few = pd.DataFrame({"label": list("aabbccdd"), "group": [f"p{number}" for number in range(8)]})
    split = loading.group_disjoint_split(few, label="label", group="group", seed=0)
    assert (split == "train").sum() >= 4
    assert set(split) == {"train", "validation", "test"}
    paired = few.assign(group=few["group"].str.replace("p1", "p0"))
    split = loading.group_disjoint_split(paired, label="label", group="group", seed=0)
    assert paired.assign(split=split).groupby("group")["split"].nunique().max() == 1
    with pytest.raises(DataError, match="3 examples are too few to split"):
        loading.group_disjoint_split(few[:3], label="label", group=None, seed=0)


@pytest.mark.parametrize("group", ["group", None])
def test_validation_alone_is_held_out(rows, group):
    split = loading.group_disjoint_split(rows, label="label", group=group, seed=0, held_out=("validation",))
    assert set(split) == {"train", "validation"}
    assert 0.05 < (split == "validation").mean() < 0.3
    assert group is None or rows.assign(split=split).groupby("group")["split"].nunique().max() == 1


def test_a_random_split_follows_its_seed(rows):
    first, again, other = (loading.random_split(rows, label="label", seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert (first != other).mean() > 0.2


def test_a_shared_group_is_named(rows):
    split = pd.Series(np.where(np.arange(600) % 2, "train", "test"))
    with pytest.raises(DataError, match="more than one split"):
        loading.check_groups(rows.assign(split=split), group="group")


def test_a_fraction_keeps_the_classes_shares_and_only_touches_train(rows):
    rows["split"] = loading.random_split(rows, label="label", seed=0)
    half = loading.take_subset(rows, label="label", seed=0, train_fraction=0.5)
    train, whole = half[half["split"] == "train"], rows[rows["split"] == "train"]
    assert len(train) == round(len(whole) / 2)
    difference = train["label"].value_counts(normalize=True) - whole["label"].value_counts(normalize=True)
    assert difference.abs().max() < 0.02
    assert (half["split"] != "train").sum() == (rows["split"] != "train").sum()
    assert half.equals(loading.take_subset(rows, label="label", seed=0, train_fraction=0.5))
    assert not half.equals(loading.take_subset(rows, label="label", seed=1, train_fraction=0.5))


def test_counts_are_limits(rows):
    rows["split"] = loading.random_split(rows, label="label", seed=0)
    few = loading.take_subset(rows, label="label", seed=0, max_train_samples=9, max_eval_samples=7)
    assert few["split"].value_counts().to_dict() == {"train": 9, "validation": 7, "test": 7}
    assert set(few[few["split"] == "train"]["label"]) == set("abc")
    with pytest.raises(DataError, match="train_fraction"):
        loading.take_subset(rows, label="label", seed=0, train_fraction=0)


def test_good_files_are_remembered_and_changed_ones_checked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "cache")
    seen = []

    def check(path: str, wanted: str) -> str | None:
        seen.append(path)
        return "bad" if path.endswith("1") else None

    files = [tmp_path / str(index) for index in range(3)]
    for file in files:
        file.write_text("x")
    items = [(str(file), "audio") for file in files]
    assert FileCheck(check, {}).reasons(items) == [None, "bad", None]
    assert FileCheck(check, {}).reasons(items) == [None, "bad", None]
    assert sorted(seen) == sorted([*map(str, files), str(files[1])])
    files[0].write_text("longer")
    FileCheck(check, {}).reasons(items)
    assert seen.count(str(files[0])) == 2
    FileCheck(check, {"face_crop": "yunet"}).reasons(items)
    assert seen.count(str(files[2])) == 2


def check_when_all_have_begun(files: list[str], barrier) -> None:
    def check(path: str, wanted: str) -> None:
        barrier.wait(30)

    FileCheck(check, {}, workers=1).reasons([(path, "audio") for path in files])


def test_two_runs_remember_what_both_have_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "cache")
    files = [str(tmp_path / name) for name in "ab"]
    for file in files:
        Path(file).write_text("x")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    children = [context.Process(target=check_when_all_have_begun, args=([file], barrier)) for file in files]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert FileCheck(lambda path, wanted: "asked again", {}).reasons([(path, "audio") for path in files]) == [None] * 2


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b""])
def test_a_damaged_memory_is_begun_anew(tmp_path, monkeypatch, content):
    monkeypatch.setattr(loading, "HF_HOME", tmp_path)
    (loading.cache_dir() / "checked.json").write_bytes(content)
    assert loading.recall("checked.json") == {}
    loading.remember("checked.json", {"a": 1})
    loading.remember("checked.json", {"b": 2})
    assert loading.recall("checked.json") == {"a": 1, "b": 2}


def test_a_cache_that_cannot_be_written_names_what_to_set(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(loading, "HF_HOME", tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot be written to .*HF_HOME="):
        loading.cache_dir()
    monkeypatch.setattr(loading, "HF_HOME", tmp_path)
    monkeypatch.setattr(loading.os, "access", lambda *args: False)
    with pytest.raises(DataError, match=r"cannot be written to \(Permission denied"):
        loading.cache_dir("arrays")


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    loading.write_json_atomically(path, [1])
    with pytest.raises(TypeError):
        loading.write_json_atomically(path, [object()])
    assert json.loads(path.read_text()) == [1]
    monkeypatch.setattr(loading.os, "replace", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loading.write_json_atomically(path, [2])
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_is_written(tmp_path):
    loading.write_json_atomically(tmp_path / "x.json", [1])
    (tmp_path / "plain").touch()
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
