"""Predicting with every system: rows in order, bad inputs, formats, tables, scores and refusals."""

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from transformers import pipeline
from typer.testing import CliRunner

import hf_fer
from hf_fer import cli
from hf_fer.data.loading import DataError
from hf_fer.inference.command import main, read_options
from hf_fer.inference.jobs import Settings, predict_to_file
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.predictor import predictors

SYSTEMS = ("multimodal_fer", "csr", "language_id", "speech_to_text")
every_system = pytest.mark.parametrize("name", SYSTEMS)


def run(system, sources, output: Path, **fields) -> list[dict]:
    predict_to_file(Settings(str(system.model), [*map(str, sources)], str(output), **fields))
    return pq.read_table(output).to_pylist() if output.suffix == ".parquet" else []


def jumbled(system) -> list[Path]:
    """Not in the order of lengths or names, one file twice, and a bad one in the middle."""
    files = system.files
    return [files[3], files[0], system.bad, files[4], files[0], files[1]]


@every_system
def test_rows_are_in_order_and_a_bad_input_has_its_reason(systems, name, tmp_path):
    system = systems[name]
    sources = jumbled(system)
    rows = run(system, sources, tmp_path / "out.parquet", batch_size=3, shard_size=4)
    assert [row["input"] for row in rows] == [*map(str, sources)]
    assert [row["error"] is not None for row in rows] == [path == system.bad for path in sources]
    assert str(system.bad) in rows[2]["error"]
    assert all(row["score"] is not None for row in rows if not row["error"])
    assert {**rows[1], "score": 0} == {**rows[4], "score": 0} or name == "speech_to_text"
    assert not (tmp_path / "out.parquet.parts").exists()


@every_system
def test_a_row_says_what_the_bare_pipeline_says(systems, name, tmp_path):
    system = systems[name]
    task = next(task for task, found in predictors().items() if f".{name}." in found.__module__)
    pipe = pipeline(task, model=str(system.model))
    row = run(system, system.files[:1], tmp_path / "out.parquet", probabilities=True)[0]
    answer = pipe(system.files[0] if name == "language_id" else str(system.files[0]))
    if name == "speech_to_text":
        assert row["text"] == answer["text"]
        assert [segment["label"] for segment in row["segments"]] == [word["word"] for word in answer["words"]]
        return
    best = (answer["labels"] if isinstance(answer, dict) else answer)[0]
    assert row["label"] == best["label"]
    assert row["score"] == pytest.approx(best["score"], abs=1e-6)
    probabilities = [value for column, value in row.items() if column.startswith("p_")]
    assert len(probabilities) == len(pipe.model.config.id2label)
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)


@every_system
def test_a_generator_gives_the_rows_of_the_files(systems, name, tmp_path):
    system = systems[name]
    expected = run(system, jumbled(system), tmp_path / "out.parquet", batch_size=2)
    rows = hf_fer.predict(system.model, (path for path in jumbled(system)), batch_size=2)
    for row, known in zip(rows, expected, strict=True):
        assert row.keys() == known.keys()
        assert {**row, "score": 0, "segments": 0} == {**known, "score": 0, "segments": 0}


def test_a_generator_is_read_a_few_batches_ahead(systems):
    taken = []

    def texts():
        for number in range(1000):
            taken.append(number)
            yield f"text {number}"

    rows = hf_fer.predict(systems["language_id"].model, texts(), batch_size=2)
    assert next(rows)["input"] == "1"
    assert len(taken) == 64


def test_texts_dictionaries_and_one_text(systems):
    system = systems["language_id"]
    assert [row["input"] for row in hf_fer.predict(system.model, "one text")] == ["1"]
    rows = list(hf_fer.predict(system.model, [{"text": "one text"}, "one text", 3, "123"]))
    assert rows[0]["label"] == rows[1]["label"]
    assert "int" in rows[2]["error"]
    assert rows[3]["abstained"]
    assert rows[3]["label"] is None


@pytest.mark.parametrize("name", ["multimodal_fer", "speech_to_text"])
def test_csv_and_jsonl_equal_parquet(systems, name, tmp_path):
    system = systems[name]
    options = {"window_seconds": 0.4} if name == "multimodal_fer" else {}
    rows = run(system, jumbled(system), tmp_path / "out.parquet", options=options)
    for ending in ("csv", "jsonl"):
        run(system, jumbled(system), tmp_path / f"out.{ending}", options=options)
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [*map(json.loads, lines)] == rows
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        for text, row in zip(csv.DictReader(file), rows, strict=True):
            for column, value in row.items():
                is_text = value is None or isinstance(value, str)
                assert (text[column] or None if is_text else json.loads(text[column])) == (
                    value if value != "" else None
                )


def test_windows_have_times(systems, tmp_path):
    system = systems["multimodal_fer"]
    row = run(system, system.files[:1], tmp_path / "out.parquet", options={"window_seconds": 0.4})[0]
    assert [segment["start"] for segment in row["segments"]] == pytest.approx([0, 0.4, 0.5], abs=0.01)
    for ending, head, first in (("srt", "1", "00:00:00,000 -->"), ("vtt", "WEBVTT", "00:00:00.000 -->")):
        run(system, system.files[:1], tmp_path / f"out.{ending}", options={"window_seconds": 0.4})
        text = (tmp_path / f"out.{ending}").read_text(encoding="utf-8")
        assert text.startswith(head)
        assert first in text
        assert text.count("-->") == 3


@every_system
def test_a_folder_is_its_files_and_a_table_names_them(systems, name, tmp_path):
    system = systems[name]
    column = {"language_id": "text", "csr": "image"}.get(name, "audio")
    for file in system.files:
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / "readme.xyz").write_text("not data")
    values = [file.read_text(encoding="utf-8") if column == "text" else file.name for file in system.files]
    pd.DataFrame({column: [*values[:2], None, *values[2:]]}).to_csv(tmp_path / "table.csv", index=False)
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in system.files:
        shutil.copy(file, folder / file.name)
    listed = run(system, [folder], tmp_path / "folder.parquet")
    assert [row["input"] for row in listed] == [str(folder / file.name) for file in system.files]
    rows = run(system, [tmp_path / "table.csv"], tmp_path / "table.parquet")
    assert "the row has nothing in" in rows[2]["error"]
    answers = [row.get("label") or row.get("text") for row in rows[:2] + rows[3:]]
    assert answers == [row.get("label") or row.get("text") for row in listed]


@every_system
def test_labels_in_the_table_are_scored(systems, name, tmp_path, capsys):
    system = systems[name]
    found = run(system, system.files, tmp_path / "first.parquet")
    column = {"language_id": "text", "csr": "image"}.get(name, "audio")
    values = [file.read_text(encoding="utf-8") if column == "text" else str(file) for file in system.files]
    target = "transcript" if name == "speech_to_text" else "label"
    true = [row.get("label") or "ab cd" for row in found]
    true[0] = None
    pd.DataFrame({column: values, target: true}).to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    status = main(
        [], model=str(system.model), sources=[str(tmp_path / "t.jsonl")], output=str(tmp_path / "out.parquet")
    )
    assert status == 0
    printed = capsys.readouterr().out
    assert "5 inputs, 0 without an answer" in printed
    assert "scored: 4" in printed
    assert ("wer: " if name == "speech_to_text" else "uar: 1.0000") in printed


def test_a_data_set_of_the_hub_has_its_splits_as_sources(systems, tmp_path, monkeypatch):
    system = systems["language_id"]
    splits = {
        name: pd.DataFrame({"text": [f"{name} text", None], "label": ["de", None]}) for name in ("train", "test")
    }
    monkeypatch.setattr("hf_fer.inference.inputs.read_hub", lambda name: splits)
    rows = run(system, ["somebody/texts"], tmp_path / "out.parquet")
    assert [row["input"] for row in rows] == [f"somebody/texts/{name} row {n}" for name in splits for n in (1, 2)]
    assert [row["target"] for row in rows] == ["de", None] * 2
    assert [row["error"] is None for row in rows] == [True, False] * 2


def test_all_rows_of_a_table_have_the_same_keys(systems, tmp_path):
    pd.DataFrame({"image": [str(systems["csr"].files[0])] * 2, "label": ["a", None]}).to_csv(tmp_path / "t.csv")
    first, second = hf_fer.predict(systems["csr"].model, tmp_path / "t.csv")
    assert first.keys() == second.keys()
    assert (first["target"], second["target"]) == ("a", None)


def test_a_class_that_the_model_does_not_have_is_counted(systems, tmp_path):
    system = systems["csr"]
    pd.DataFrame({"image": [str(system.files[0])], "label": ["other"]}).to_csv(tmp_path / "t.csv", index=False)
    summary = predict_to_file(Settings(str(system.model), [str(tmp_path / "t.csv")], str(tmp_path / "out.csv")))
    assert summary["metrics"] == {"scored": 0, "not_scored": 1}


def test_a_labelled_input_without_an_answer_is_counted(systems, tmp_path):
    system = systems["csr"]
    (tmp_path / "bad.png").write_bytes(b"no image")
    label = next(iter(hf_fer.predict(system.model, str(system.files[0]))))["label"]
    table = pd.DataFrame({"image": [str(system.files[0]), "bad.png"], "label": [label, label]})
    table.to_csv(tmp_path / "t.csv", index=False)
    summary = predict_to_file(Settings(str(system.model), [str(tmp_path / "t.csv")], str(tmp_path / "out.csv")))
    assert (summary["metrics"]["scored"], summary["metrics"]["not_scored"]) == (1, 1)


def test_a_folder_without_a_file_to_read_is_said(systems, tmp_path):
    (tmp_path / "notes.xyz").touch()
    with pytest.raises(DataError, match=r"has no file for .*Endings that are read: \.\w+, \.\w+"):
        predict_to_file(Settings(str(systems["csr"].model), [str(tmp_path)], str(tmp_path / "out.csv")))


@pytest.mark.parametrize("place", ["/proc/out.csv", "file/out.csv"])
def test_a_place_that_cannot_be_written_is_said(systems, tmp_path, place):
    system = systems["csr"]
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"out\.csv cannot be written .*give another --output"):
        predict_to_file(Settings(str(system.model), [str(system.files[0])], str(tmp_path / place)))


def test_what_exists_is_refused_unless_it_may_be_replaced(systems, tmp_path):
    system, out = systems["language_id"], tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(RecipeError, match="--overwrite"):
        run(system, system.files, out)
    assert out.read_text() == "mine"
    run(system, system.files, out, overwrite=True)
    assert len(out.read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output": "out.xlsx"}, "ending of --output '.xlsx'"),
        ({"output": "out.srt"}, "have no times"),
        ({"options": {"windows": 3}}, "--option: Unknown parameters"),
        ({"batch_size": 0}, "--batch_size must be at least 1"),
        ({"sources": ["none/such/thing.txt"]}, "thing.txt: file or folder not found"),
        ({"sources": ["a sentence in place of a file, " * 20]}, "is a text, not a file: write it into a .txt file"),
        ({"sources": [""]}, "an input has an empty name"),
        ({"sources": ["no_such_data_set"]}, "no_such_data_set"),
    ],
)
def test_what_cannot_be_is_one_message(systems, tmp_path, capsys, fields, message):
    options = [f"{name}={value}" for name, value in fields.pop("options", {}).items()]
    given = {"sources": [str(systems["language_id"].files[0])], "output": "out.csv", **fields}
    given["output"] = str(tmp_path / given["output"])
    with pytest.raises(SystemExit) as stopped:
        main(options, model=str(systems["language_id"].model), **given)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert "hf_fer: error: " in printed
    assert message in printed


@pytest.mark.parametrize("which", ["table", "named file"])
def test_an_output_that_is_an_input_is_refused(systems, tmp_path, capsys, which):
    image = tmp_path / "a.csv"  # an image of that name, since outputs have the endings of tables
    shutil.copy(systems["csr"].files[0], image)
    table = tmp_path / "t.csv"
    table.write_text("image\na.csv\n")
    before = {path: path.read_bytes() for path in (image, table)}
    output = tmp_path / "." / {"table": table, "named file": image}[which].name
    with pytest.raises(SystemExit) as stopped:
        main([], model=str(systems["csr"].model), sources=[str(table)], output=str(output), overwrite=True)
    assert stopped.value.code == 2
    assert "is an input, too, and would be lost" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("damage", ["config", "weights", "processor", "absent", "stage", "file"])
def test_a_model_that_cannot_be_read_is_one_message(systems, tmp_path, capsys, damage):
    model = tmp_path / "model"
    shutil.copytree(systems["csr"].model, model)
    if damage == "config":
        (model / "config.json").write_text("{")
    elif damage == "weights":
        (model / "model.safetensors").write_bytes(b"0")
    elif damage == "processor":
        for file in model.glob("*processor*.json"):
            file.unlink()
    elif damage == "stage":
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "stage": 1}))
    given = {"absent": tmp_path / "none", "file": model / "config.json"}.get(damage, model)
    with pytest.raises(SystemExit) as stopped:
        main([], model=str(given), sources=[str(systems["csr"].files[0])], output=str(tmp_path / "out.csv"))
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("hf_fer: error: ") == 1
    assert str(tmp_path) in printed
    assert "Traceback" not in printed


def test_the_command_takes_its_options(systems, tmp_path):
    system, out = systems["language_id"], tmp_path / "out.jsonl"
    words = ["predict", str(system.model), str(system.files[0]), str(system.bad), "--output", str(out)]
    words += ["--option", "spans=true", "--probabilities", "--batch_size", "2"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0
    assert "2 inputs, 1 without an answer" in result.output
    first, second = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    assert {"start", "end", "label", "score"} == first["segments"][0].keys()
    assert sum(name.startswith("p_") for name in first) > 1
    assert second["error"]
    assert CliRunner().invoke(cli.app, [*words[:2], str(system.bad), *words[4:5], f"{out}.csv"]).exit_code == 1


def test_a_launcher_is_refused(systems, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="--num_processes"):
        run(systems["language_id"], systems["language_id"].files, tmp_path / "out.csv")


def test_options_are_json_or_text():
    assert read_options(["a=1", "b=[1,2]", "c=x=y"]) == {"a": 1, "b": [1, 2], "c": "x=y"}
    with pytest.raises(RecipeError, match="name=value"):
        read_options(["a"])


def test_importing_the_package_stays_light():
    assert callable(hf_fer.predict)
    with pytest.raises(AttributeError, match="no attribute 'predicts'"):
        hf_fer.predicts  # noqa: B018
