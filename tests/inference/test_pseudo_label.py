"""Confident answers to unlabelled inputs as a table of training, and a training on it."""

import json
import os
import shutil

import pandas as pd
import pytest
from media import tone, write_clip
from models.speech_to_text.recipes import task_of
from typer.testing import CliRunner

from hf_fer import cli
from hf_fer.experiment.one_run import run
from hf_fer.inference import pseudo_label as labelling
from hf_fer.models.speech_to_text.train.demo import make_demo


def call(*words):
    return CliRunner().invoke(cli.app, ["pseudo-label", *map(str, words)])


def of_speech(systems, folder):
    """A table of recordings of two speakers, one of them damaged, with true transcripts of some."""
    system = systems["speech_to_text"]
    rows = [
        {"file_path": str(path), "speaker_id": f"new{number % 2}", "transcript": "" if number else "ab"}
        for number, path in enumerate([*system.files, system.bad])
    ]
    pd.DataFrame(rows).to_csv(folder / "sound.csv", index=False)
    return system


def test_transcripts_above_the_threshold_are_kept_with_their_speakers(systems, tmp_path):
    system = of_speech(systems, tmp_path)
    done = call(system.model, tmp_path / "sound.csv", "--output", tmp_path / "all.csv", "--min_confidence", 0)
    assert done.exit_code == 0, done.output
    rows = pd.read_csv(tmp_path / "all.csv")
    assert list(rows) == ["file_path", "transcript", "speaker_id", "confidence", "split"]
    assert list(rows["file_path"]) == [str(path) for path in system.files]
    assert set(rows["speaker_id"]) == {"new0", "new1"}
    assert set(rows["split"]) == {"train"}
    found = json.loads((tmp_path / "all.statistics.json").read_text())
    assert found["outcomes"] == {"kept": 5, "no answer": 1}
    assert found["all"]["scored"] == 1
    middle = sorted(rows["confidence"])[2]
    job = (system.model, tmp_path / "sound.csv", "--output", tmp_path / "some.csv", "--min_confidence", middle)
    done = call(*job)
    assert "3 of 6 inputs with confidence of at least" in done.output
    assert "left out, confidence too low: 2" in done.output
    kept = pd.read_csv(tmp_path / "some.csv")
    assert set(kept["file_path"]) == set(rows["file_path"][rows["confidence"] >= middle])


def test_another_threshold_needs_no_second_prediction(systems, tmp_path, monkeypatch):
    system = of_speech(systems, tmp_path)
    job = (system.model, tmp_path / "sound.csv", "--output", tmp_path / "all.csv")
    assert call(*job, "--min_confidence", 0).exit_code == 0
    monkeypatch.setattr(labelling, "predict_to_file", None)
    assert call(*job, "--min_confidence", 0).exit_code == 2  # the output exists
    assert call(*job, "--min_confidence", 0, "--overwrite").exit_code == 0
    done = call(*job, "--min_confidence", 1, "--overwrite")
    assert done.exit_code == 2
    assert "no answer reaches --min_confidence 1; quantiles are" in done.stderr
    monkeypatch.undo()
    os.utime(system.files[0], (1, 1))
    assert "exists already" in call(*job, "--min_confidence", 0).stderr
    assert call(*job, "--min_confidence", 0, "--overwrite").exit_code == 0


@pytest.mark.parametrize("name", ["language_id", "csr", "multimodal_fer"])
def test_classes_of_every_system(systems, tmp_path, name):
    system = systems[name]
    source = tmp_path / "inputs"
    if name == "language_id":
        source = tmp_path / "texts.csv"
        pd.DataFrame({"text": ["một hai", "three"], "source": ["a", "b"]}).to_csv(source, index=False)
    else:
        source.mkdir()
        for path in system.files[:2]:
            shutil.copy(path, source)
    output = tmp_path / "pseudo.jsonl"
    done = call(system.model, source, "--output", output, "--min_confidence", 0)
    assert done.exit_code == 0, done.output
    rows = pd.read_json(output, lines=True)
    assert len(rows) == 2
    assert {"label", "confidence", "split"} < set(rows)
    assert json.loads((tmp_path / "pseudo.statistics.json").read_text())["labels"] == dict(
        sorted(rows["label"].value_counts().items())
    )
    assert ("source" in rows) == (name == "language_id")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--output", "a.txt"), "the ending of --output"),
        (("--output", "a.csv", "--min_confidence", "1.5"), "must be in"),
    ],
)
def test_what_cannot_be_is_refused(systems, words, said):
    done = call(systems["language_id"].model, "texts.csv", *words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_an_output_that_is_an_input_is_refused(systems, tmp_path):
    table = tmp_path / "texts.csv"
    table.write_text("text\none two\n", encoding="utf-8")
    done = call(systems["language_id"].model, table, "--output", table, "--overwrite")
    assert done.exit_code == 2
    assert "is an input, too, and would be lost" in done.stderr
    assert table.read_text(encoding="utf-8") == "text\none two\n"


def test_a_recipe_trains_on_labelled_and_pseudo_labelled_recordings(systems, tmp_path):
    """From end to end: beeps with transcripts, sound without, one model, its transcripts, the next model."""
    manifest = make_demo(tmp_path)
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    for number in range(4):
        write_clip(unlabelled / f"{number}.wav", audio=tone(1.2, 16000, frequency=300 + 90 * number))
    output = tmp_path / "pseudo.csv"
    model = systems["speech_to_text"].model
    assert call(model, unlabelled, "--output", output, "--min_confidence", 0).exit_code == 0
    rows = pd.read_csv(output)
    rows["transcript"] = "ba"  # what the random model writes may need more frames than there are
    rows.loc[len(rows)] = {
        "file_path": str(manifest.parent / "train_0_0.wav"),
        "transcript": "wrong",
        "split": "train",
    }
    rows.to_csv(output, index=False)
    task = task_of(manifest, tmp_path / "out", more_datasets=[str(output)], max_train_samples=None, max_steps=2)
    data = task.load_data()
    train = data.splits["train"].to_pandas()
    assert (train["corpus"] == "pseudo").sum() == len(rows) - 1
    assert "wrong" not in set(train["transcript"])
    assert set(data.splits["test"]["corpus"]) == {"recordings"}
    assert any("1 recordings are in several data sets" in note for note in data.notes)
    assert any("All recordings of pseudo are in training" in note for note in data.notes)
    assert train["group"].isna().sum() == len(rows) - 1
    run(task)
    assert (tmp_path / "out" / "report" / "errors_by_corpus.csv").is_file()
