"""The model card says what happened in the run, and what holds for its data."""

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard

from hf_fer.data.facts import DataFacts
from hf_fer.data.loading import LoadedData
from hf_fer.experiment.model_card import how_scored, write_card
from hf_fer.models.multimodal_fer.train.facts import data_facts
from hf_fer.reporting.report import environment
from hf_fer.task.base import Task, task_names
from hf_fer.task.find import parse_task

TRAINED = {"steps": 12, "epochs": 2.0, "best_metric": 0.5}


def card_of(
    folder: Path,
    name: str,
    *arguments: str,
    facts: DataFacts | None = None,
    labels: tuple[str, ...] = ("a", "b"),
    captions: dict[str, str] | None = None,
    **runtime,
) -> str:
    """The card of a run that scored nothing, on data of which this is known."""
    task = parse_task(["--task", name, "--dataset", "clips.csv", "--use_cpu", "true", *arguments])
    data = LoadedData(DatasetDict(), list(labels), "own", facts=facts or DataFacts())
    metrics = {
        "task": name,
        "protocol": "own",
        "validation": {"absent": "not asked for"},
        "test": {"absent": "not asked for"},
        "data": {"dataset": "clips.csv", "notes": [], "absent": {}, "skipped": 0},
        "runtime": runtime,
        "environment": environment(),
    }
    write_card(folder, task, data, metrics, "mine", captions)
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", task_names())
def test_own_data_has_no_licence_and_no_limits_of_other_data(name, tmp_path):
    card = card_of(tmp_path, name, "--output_dir", "outputs/mine", **TRAINED)
    assert "\nlicense:" not in card
    assert "RAVDESS" not in card
    assert 'model="outputs/mine"' in card
    assert 'model="path/to/mine"' in card_of(tmp_path, name, "--output_dir", str(tmp_path / "mine"))


@pytest.mark.parametrize("name", task_names())
def test_demo_data_is_licensed_as_the_code(name, tmp_path):
    assert "\nlicense: apache-2.0" in card_of(tmp_path, name, "--dataset", "demo")


def test_ravdess_has_its_limits_and_licence(tmp_path):
    columns = {column: ["x"] for column in ("sex", "intensity", "statement")}
    data = LoadedData(DatasetDict(train=Dataset.from_dict(columns)), ["a", "b"], "own")
    card = card_of(tmp_path, "multimodal_fer", facts=data_facts("clips", data))
    assert "RAVDESS has 24 actors" in card
    assert "\nlicense: cc-by-nc-sa-4.0" in card


def test_co2_is_in_the_cards_metadata_only_where_it_was_estimated(tmp_path):
    assert "co2_eq_emissions" not in card_of(tmp_path, "csr", **TRAINED)
    card_of(tmp_path, "csr", **TRAINED, energy_wh=20.0, co2_g=1.4, co2_country="Vietnam")
    found = ModelCard.load(tmp_path / "README.md").data.to_dict()["co2_eq_emissions"]
    assert found == {"emissions": 1.4, "source": "CodeCarbon", "geographical_location": "Vietnam"}


def scored(arguments: tuple[str, ...], runtime: dict, test: dict) -> str:
    task: Task = parse_task(["--task", "language_id", "--dataset", "demo", "--use_cpu", "true", *arguments])
    return how_scored(task, {"runtime": runtime, "test": test})


def test_says_how_the_checkpoint_was_chosen_only_where_it_was():
    chosen, once = "chosen on the validation split, by weighted_f1", "scored the test split once"
    whole = scored((), TRAINED, {"samples": 4})
    assert chosen in whole
    assert once in whole
    assert once not in scored((), TRAINED, {"absent": "not asked for"})
    last = scored(("--eval_strategy", "no", "--load_best_model_at_end", "false"), TRAINED, {})
    assert "of the last step" in last
    assert chosen not in last
    evaluated = scored(("--do_train", "false"), {"cpu_mib": 5}, {"samples": 4})
    assert "did not train" in evaluated
    assert chosen not in evaluated


def test_names_only_the_files_of_the_report_that_are_there(tmp_path):
    (tmp_path / "report").mkdir()
    for file in ("report.md", "per_class.csv", "predictions.csv"):
        (tmp_path / "report" / file).write_text("x")
    assert "The folder `report/` has `report.md`, `per_class.csv`." in card_of(tmp_path, "language_id", **TRAINED)


@pytest.mark.parametrize("name", task_names())
def test_shows_the_pictures_of_the_report_that_leave_with_it_and_no_others(name, tmp_path):
    (tmp_path / "report").mkdir()
    captions = {
        "curves.png": "Losses by epoch.",
        "one_person.png": "A single example.",
        "gone.png": "Not drawn.",
        "history.csv": "A table.",
        "atlas/index.html": "A page.",
    }
    for file in ("curves.png", "one_person.png", "history.csv"):
        (tmp_path / "report" / file).write_bytes(b"x")
    card = card_of(tmp_path, name, captions=captions, **TRAINED)
    assert "\n![Losses by epoch.](report/curves.png)\n" in card
    assert card.count("](report/") == 1


def test_the_hubs_widget_gets_texts_in_languages_that_the_model_has(tmp_path):
    card_of(tmp_path, "language_id", labels=("vi", "ja", "deu", "tlh"), **TRAINED)
    entries = ModelCard.load(tmp_path / "README.md").data.to_dict()["widget"]
    assert [entry["example_title"] for entry in entries] == ["Tiếng Việt", "Deutsch", "日本語"]
    assert all(entry["text"] for entry in entries)
    assert "widget:" not in card_of(tmp_path, "language_id", labels=("tlh", "xal"), **TRAINED)


@pytest.mark.parametrize("name", sorted({*task_names()} - {"language_id"}))
def test_systems_of_media_offer_no_examples_because_they_have_none_that_are_nobodys(name, tmp_path):
    assert "widget:" not in card_of(tmp_path, name, **TRAINED)
