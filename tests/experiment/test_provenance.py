"""A model remembers, by digests, what it was trained and chosen on; leaks are refused, or marked where asked for."""

import json
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from hf_fer.data.loading import DataError, LoadedData
from hf_fer.experiment import provenance
from hf_fer.experiment.cross_validation import summary_page
from hf_fer.recipe.arguments import RecipeError

LABELS = ["angry", "happy"]


def task(start: str | None = None, *others: str, split_seed: int = 0):
    """As much of a task as provenance asks for."""
    weights = {f"weights_{number}": path for number, path in enumerate(others)}
    return SimpleNamespace(
        name=lambda: "some_task",
        file_columns=(),
        text_columns=("text",),
        group_column="group",
        target_column="labels",
        data_args=SimpleNamespace(split_seed=split_seed),
        model_args=SimpleNamespace(model_name_or_path=start, **weights),
        weight_fields=tuple(weights),
    )


def data(protocol: str = "manifest", labels: list[str] = LABELS, **splits: str) -> LoadedData:
    """Splits of `group:text` words."""
    pairs = {name: [word.split(":") for word in words.split()] for name, words in splits.items()}
    tables = {
        name: Dataset.from_dict(
            {"group": [g for g, _ in own], "text": [t for _, t in own], "labels": [n % 2 for n in range(len(own))]}
        )
        for name, own in pairs.items()
    }
    return LoadedData(DatasetDict(tables), labels, protocol)


@pytest.fixture
def trained(tmp_path):
    """A folder with what was trained on anna and bob and chosen on carl."""
    folder = tmp_path / "trained"
    folder.mkdir()
    provenance.establish(task(), data(train="anna:1 bob:2", validation="carl:3", test="dora:4")).write(folder)
    return str(folder)


def test_only_digests_are_stored(trained):
    text = Path(trained, "provenance.json").read_text(encoding="utf-8")
    assert "anna" not in text
    (training,) = json.loads(text)["trainings"]
    assert len(training["train"]["groups"]) == len(training["train"]["examples"]) == 2
    assert training["labels"] == LABELS


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": "anna:9"}, "trained was trained on 1 of the 1 groups and 0 of the 1 files or texts"),
        ({"test": "eve:2 eve:9"}, "was trained on 0 of the 1 groups and 1 of the 2 files or texts"),
        ({"test": "carl:9"}, "was chosen on 1 of the 1 groups"),
        ({"validation": "anna:9", "test": "eve:9"}, "of the present validation split"),
        ({"test": "anna~:9"}, "1 of the 1 groups"),
    ],
)
def test_what_has_seen_the_test_is_refused(trained, splits, message):
    splits = {name: words.replace("anna~", "anna\u200b") for name, words in splits.items()}
    for start in (task(trained), task(None, trained)):
        with pytest.raises(DataError, match=message):
            provenance.establish(start, data(**splits))


def test_the_same_splits_go_on_and_are_carried_over(trained, tmp_path):
    loaded = data(train="anna:1 bob:2", validation="carl:3", test="dora:4")
    found = provenance.establish(task(trained), loaded)
    assert found.apart
    assert loaded.notes == []
    other = tmp_path / "other"
    other.mkdir()
    provenance.establish(task(trained), data(train="eve:5 fay:6", validation="gus:7", test="dora:4")).write(other)
    assert len(provenance.read(other)) == 2
    with pytest.raises(DataError, match="other was trained on 1 of the 1 groups"):
        provenance.establish(task(str(other)), data(test="anna:9"))


def test_a_leaky_protocol_is_marked(trained):
    loaded = data("manifest_leaky", test="anna:9")
    assert not provenance.establish(task(trained), loaded).apart
    assert loaded.notes[0].startswith("LEAKY: trained was trained on 1 of the 1 groups")


def test_a_model_that_does_not_say_is_told_of(tmp_path):
    loaded = data(test="anna:9")
    assert not provenance.establish(task(str(tmp_path)), loaded).apart
    assert "has no provenance.json" in loaded.notes[0]
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot be read"):
        provenance.establish(task(str(tmp_path)), loaded)


def test_groups_of_one_run_on_both_sides_or_none_are_not_apart():
    assert not provenance.establish(task(), data(train="anna:1", test="anna:2")).apart
    assert not provenance.establish(task(), data("random_leaky", train="anna:1", test="bob:2")).apart


def test_folds_are_certified_by_that_check_alone():
    page = {"task": "t", "protocol": "p", "num_folds": 3, "folds": {}, "notes": [], "unfinished": []}
    table = pd.DataFrame(columns=["split"])
    sentence = "No model was trained or chosen on the groups"
    assert sentence in summary_page({**page, "pooled_test": {}, "test_groups_unseen": True}, table)
    unknown = summary_page({**page, "pooled_test": {}, "test_groups_unseen": False}, table)
    assert sentence not in unknown
    assert "NOT ESTABLISHED" in unknown


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"split_seed": 1}, "split_seed was 0, now 1"),
        ({"labels": LABELS[:1]}, r"labels was \['angry', 'happy'\], now \['angry'\]"),
        ({"labels": LABELS[::-1]}, r"labels was \['angry', 'happy'\], now \['happy', 'angry'\]"),
        ({"protocol": "random_leaky"}, "protocol was 'manifest'"),
        ({"train": "anna:1 bob:7"}, "of 2 files or texts of train, 1 are missing and 1 are new"),
        ({"train": "bob:2 anna:1"}, "other labels, or another order"),
        ({"validation": "carl:8"}, "of validation, 1 are missing"),
    ],
)
def test_resuming_with_other_data_is_refused(trained, changed, message):
    splits = {"train": "anna:1 bob:2", "validation": "carl:3", "test": "dora:4"}
    seed = {"split_seed": changed.pop("split_seed")} if "split_seed" in changed else {}
    own = provenance.establish(task(**seed), data(**{**splits, **changed})).own
    with pytest.raises(RecipeError, match=message):
        provenance.check_resumption(trained, own, 0.01)


def test_resuming_with_the_same_data_or_less_a_broken_file(trained, tmp_path):
    splits = {"train": "anna:1 bob:2", "validation": "carl:3"}
    provenance.check_resumption(trained, provenance.establish(task(), data(**splits)).own, 0)
    own = provenance.establish(task(), data(**{**splits, "train": "anna:1"})).own
    provenance.check_resumption(trained, own, 0.5)
    provenance.check_resumption(tmp_path, own, 0)  # of another version: a warning
