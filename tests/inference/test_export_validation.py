"""`hf-fer export --recipe`: the comparison is on the split that the model was chosen on, and on no other."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from experiment.test_run import FAST
from models.csr.test_csr_pipeline import save_model
from typer.testing import CliRunner

import hf_fer
from hf_fer import cli
from hf_fer.data.loading import DataError
from hf_fer.experiment.provenance import establish
from hf_fer.inference.export.job import Settings, export_model
from hf_fer.inference.export.validation import validation_inputs
from hf_fer.inference.loading import find_model
from hf_fer.models.csr.train.demo_images import CONCEPTS
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import parse_task

ROOT = Path(__file__).parent.parent.parent
DEMO = str(ROOT / "training_args" / "demo" / "language_id.json")


def trained_by(recipe: str, model: Path, folder: Path) -> Path:
    """A copy of a model that says it was chosen on the validation split of a recipe."""
    shutil.copytree(model, folder)
    task = parse_task([recipe])
    establish(task, task.load_data()).write(folder)
    return folder


@pytest.fixture(scope="module")
def text(systems, tmp_path_factory) -> Path:
    return trained_by(DEMO, systems["language_id"].model, tmp_path_factory.mktemp("text") / "model")


def other(recipe: str, path: Path, **fields) -> str:
    path.write_text(json.dumps({**json.loads(Path(recipe).read_text()), **fields}))
    return str(path)


def test_the_report_has_the_metrics_of_the_models_own_validation_split(text, tmp_path):
    report = export_model(Settings(str(text), str(tmp_path / "export"), "torch_export", recipe=DEMO))
    assert report.examples == "72 examples of the model's own validation split, by language_id.json"
    split = parse_task([DEMO]).load_data().splits["validation"]
    answers = [row["label"] for row in hf_fer.predict(text, list(split["text"]))]
    right = sum(one == two for one, two in zip(answers, split["label"], strict=True)) / len(answers)
    assert report.metrics["accuracy"]["before"] == pytest.approx(right)
    assert report.metrics["accuracy"]["after"] == pytest.approx(right)
    assert report.same_answers == (72, 72)


def test_the_command_takes_a_recipe_and_says_what_it_compared_on(text, tmp_path):
    words = ["export", str(text), "--output", str(tmp_path / "export"), "--format", "torch_export", "--recipe", DEMO]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert "Compared on 72 examples of the model's own validation split" in done.stdout
    refused = CliRunner().invoke(cli.app, [*words, "--output", str(tmp_path / "two"), "--examples", "texts.csv"])
    assert refused.exit_code == 2
    assert "--examples or --recipe, not both" in refused.stderr


def test_another_split_than_that_of_the_training_is_refused(text, systems, tmp_path):
    recipe = other(DEMO, tmp_path / "recipe.json", split_seed=5)
    with pytest.raises(RecipeError, match=r"of the 72 files or texts .* that .* was chosen on"):
        validation_inputs(recipe, str(text), find_model(str(text)).predictor)
    _, words = validation_inputs(DEMO, str(systems["language_id"].model), find_model(str(text)).predictor)
    assert "a validation split (" in words
    assert "has no provenance.json" in words
    assert "own" not in words


def test_a_recipe_of_another_system_or_without_validation(text, systems, tmp_path):
    clips = str(ROOT / "training_args" / "ravdess_audio.json")
    with pytest.raises(RecipeError, match="multimodal_fer"):
        validation_inputs(clips, str(text), find_model(str(text)).predictor)
    table = tmp_path / "texts.csv"
    rows = pd.DataFrame({"text": [f"a sentence of number {n}" for n in range(8)], "label": ["de", "en"] * 4})
    rows.assign(split=["train"] * 6 + ["test"] * 2).to_csv(table, index=False)
    recipe = other(DEMO, tmp_path / "recipe.json", dataset=str(table), focus_languages=[])
    with pytest.raises(DataError, match="has no validation split"):
        validation_inputs(recipe, str(systems["language_id"].model), find_model(str(text)).predictor)


def test_clips_come_with_both_modalities_and_their_emotion(systems, small_ravdess, tmp_path):
    recipe = tmp_path / "recipe.json"
    fields = {**FAST, "num_frames": 6, "image_size": 64, "dataset": str(small_ravdess)}
    recipe.write_text(json.dumps({**fields, "output_dir": str(tmp_path / "out")}))
    model = trained_by(str(recipe), systems["multimodal_fer"].model, tmp_path / "model")
    inputs, words = validation_inputs(str(recipe), str(model), find_model(str(model)).predictor)
    assert words == "16 examples of the model's own validation split, by recipe.json"
    assert all(given.value.keys() == {"audio", "video"} for given in inputs)
    assert len({given.target for given in inputs}) == 8
    assert all(row["error"] is None for row in hf_fer.predict(model, [given.value for given in inputs[:2]]))


def test_recordings_come_with_their_transcript(systems, tmp_path):
    files = systems["speech_to_text"].files
    table = tmp_path / "recordings.csv"
    rows = {"file_path": list(map(str, files)), "transcript": ["ab", "cd", "ab cd", "cd ab", "ab ab"]}
    split = ["train", "train", "validation", "validation", "test"]
    pd.DataFrame({**rows, "split": split, "speaker_id": list("abcde")}).to_csv(table, index=False)
    recipe = tmp_path / "recipe.json"
    fields = {"task": "speech_to_text", "dataset": str(table), "output_dir": str(tmp_path / "out"), "use_cpu": True}
    recipe.write_text(json.dumps(fields))
    model = str(systems["speech_to_text"].model)
    inputs, _ = validation_inputs(str(recipe), model, find_model(model).predictor)
    assert {(given.value, given.target) for given in inputs} == {(str(files[2]), "ab cd"), (str(files[3]), "cd ab")}


def test_of_a_large_split_some_are_taken(text, monkeypatch):
    monkeypatch.setattr("hf_fer.inference.export.validation.MOST", 10)
    inputs, words = validation_inputs(DEMO, str(text), find_model(str(text)).predictor)
    assert len(inputs) == 10
    assert words.startswith("10 of 72 examples")
    assert len({given.target for given in inputs}) > 2


def test_images_are_found_by_their_whole_path(tmp_path):
    """The table of csr's demo names them relative to itself."""
    labels = dict(enumerate(["crossed", "disc_only", "plain", "striped"]))
    fields = {"concepts": list(CONCEPTS), "id2label": labels, "similarity_means": None, "atlas": None}
    model = save_model(tmp_path / "model", **fields)
    recipe = str(ROOT / "training_args" / "demo" / "csr_3_task.json")
    inputs, _ = validation_inputs(recipe, str(model), find_model(str(model)).predictor)
    assert all(Path(given.value).is_absolute() and Path(given.value).is_file() for given in inputs)
    assert {given.target for given in inputs} == {*labels.values()}
