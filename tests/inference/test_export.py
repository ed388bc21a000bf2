"""Exports: equal to their model at any batch and length, used by the same path, refused where they are worse."""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import hf_fer
from hf_fer import cli
from hf_fer.inference.export import job
from hf_fer.inference.export.folder import load_export, read_manifest
from hf_fer.inference.export.job import Settings, export_model
from hf_fer.inference.loading import find_model, load_predictor
from hf_fer.inference.serve.command import find_all
from hf_fer.inference.serve.hosting import load_hosts
from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.failures import RunError
from hf_fer.task.service import Limits


@dataclass
class Pair:
    """A model, its export, the report, and files that both take."""

    model: Path
    export: Path
    report: dict
    files: list[Path]


def pair_of(system, folder: Path, form: str = "onnx", **fields) -> Pair:
    output = folder / "export"
    export_model(Settings(str(system.model), str(output), form, **fields))
    report = json.loads((output / "export_report.json").read_text(encoding="utf-8"))
    return Pair(system.model, output, report, system.files)


def labelled(system, path: Path) -> Path:
    """A table of a system's texts with the model's own answers as the true ones."""
    rows = list(hf_fer.predict(system.model, system.files))
    texts = [file.read_text(encoding="utf-8") for file in system.files]
    pd.DataFrame({"text": texts, "label": [row["label"] for row in rows]}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def text(systems, tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp("text")
    table = labelled(systems["language_id"], folder / "texts.csv")
    return pair_of(systems["language_id"], folder, examples=str(table))


@pytest.fixture(scope="module")
def image(systems, tmp_path_factory) -> Pair:
    return pair_of(systems["csr"], tmp_path_factory.mktemp("image"), form="torch_export")


def assert_same_rows(pair: Pair, **options) -> None:
    """`hf_fer.predict` says the same of model and export."""
    known = list(hf_fer.predict(pair.model, pair.files, probabilities=True, options=options))
    got = list(hf_fer.predict(pair.export, pair.files, probabilities=True, options=options, batch_size=2))
    for one, two in zip(known, got, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert two[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value)


def test_a_report_says_what_was_compared(text):
    report = text.report
    assert report["examples"] == "5 inputs of texts.csv, 5 of them with their true answer"
    assert report["metrics"]["accuracy"] == {"before": 1.0, "after": 1.0, "loss": 0.0}
    assert report["same_answers"] == [5, 5]
    assert {one["batch"] for one in report["differences"]["batches"]} == {1, 2, 3, 8}
    assert len({one["length"] for one in report["differences"]["batches"]}) > 2
    assert report["differences"]["outputs"]["logits"] < 1e-5
    assert report["latency"]["before_ms"] > 0
    assert report["bytes"]["after"] == (text.export / "model.onnx").stat().st_size
    page = (text.export / "export_report.md").read_text(encoding="utf-8")
    assert "| accuracy | 1.0000 before, 1.0000 after |" in page
    assert not [path for path in text.export.parent.iterdir() if path.name.startswith(".")]


def test_batches_and_lengths_are_free_and_padding_changes_nothing(text):
    model = load_predictor(find_model(str(text.model))).pipe.model
    export = load_export(text.export)
    for batch in (1, 2, 3):
        for length in (2, 5, 30):
            ids = torch.randint(5, 300, (batch, length), generator=torch.Generator().manual_seed(length))
            ones = torch.ones_like(ids)
            got = export(input_ids=ids, attention_mask=ones).logits
            assert torch.allclose(got, model(input_ids=ids, attention_mask=ones).logits, atol=1e-5)
            longer = torch.nn.functional.pad(ids, (0, 2), value=model.config.pad_token_id)
            padded = export(input_ids=longer, attention_mask=torch.nn.functional.pad(ones, (0, 2))).logits
            assert torch.allclose(got, padded, atol=1e-5)


def test_an_export_predicts_as_its_model(text):
    assert_same_rows(text)
    assert_same_rows(text, unknown_threshold=0.99)
    found = find_model(str(text.export), "onnx")
    assert found.is_export
    assert found.labels == find_model(str(text.model)).labels


def test_an_export_of_images_explains_and_is_corrected_as_its_model(image):
    assert_same_rows(image)
    given = {"top_concepts": 2, "positive_boxes": [[0, 0, 20, 20]]}
    pipes = [load_predictor(find_model(str(path))).pipe for path in (image.model, image.export)]
    given["reject"] = pipes[0].model.config.concepts[:1]
    one, two = (pipe(str(image.files[0]), replacement="zero", **given) for pipe in pipes)
    assert two["logit"] == pytest.approx(one["logit"], abs=1e-5)
    assert two["bias"] == pytest.approx(one["bias"])
    for known, got in zip(one["concepts"], two["concepts"], strict=True):
        assert np.allclose(known["map"], got["map"], atol=1e-5)
        assert [got["concept"], got["prototypes"][0]["box"]] == [known["concept"], known["prototypes"][0]["box"]]
        assert [got["score"], got["share"]] == pytest.approx([known["score"], known["share"]], abs=1e-5)
    assert pipes[1].model.kept.equal(pipes[0].model.kept)


def test_an_export_is_served_by_the_same_path(text, image):
    found = find_all([f"language={text.export}", f"concepts={image.export}"])
    hosts = load_hosts(found, Limits())
    answers = {host.service.title: host for host in hosts}
    service = answers["Language"].model("language").service
    known = load_predictor(find_model(str(text.model))).pipe(["some text"], top_k=2)
    got = service.answer([["some text"]], {"top_k": 2})[0][0]
    assert [one["label"] for one in got] == [one["label"] for one in known[0]]
    assert [one["score"] for one in got] == pytest.approx([one["score"] for one in known[0]], abs=1e-5)
    assert answers["Concepts"].names() == ["concepts"]


@pytest.mark.parametrize("damage", ["cut", "other weights", "missing", "configuration", "manifest"])
def test_a_mutilated_export_is_one_message(text, tmp_path, damage):
    folder = tmp_path / "export"
    shutil.copytree(text.export, folder)
    graph, manifest = folder / "model.onnx", folder / "export.json"
    content = graph.read_bytes()
    if damage == "cut":
        graph.write_bytes(content[:-100])
    elif damage == "other weights":
        place = len(content) // 2
        graph.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "missing":
        (folder / "tokenizer.json").unlink()
    elif damage == "configuration":
        config = folder / "config.json"
        config.write_text(config.read_text(encoding="utf-8").replace('"de"', '"xx"'), encoding="utf-8")
    else:
        manifest.write_text("{", encoding="utf-8")
    words = ["predict", str(folder), str(text.files[0]), "--output", str(tmp_path / "out.jsonl")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert result.stderr.count("hf_fer: error: ") == 1
    assert str(folder) in result.stderr
    assert "Export the model again." in result.stderr


def test_another_backend_is_refused(text, tmp_path):
    with pytest.raises(RecipeError, match="is an export for onnx, not for torch_export"):
        find_model(str(text.export), "torch_export")
    with pytest.raises(RecipeError, match="is an export for onnx, not for torch"):
        next(hf_fer.predict(text.export, text.files, backend="torch"))
    with pytest.raises(RecipeError, match="is no export: make one"):
        find_model(str(text.model), "onnx")
    with pytest.raises(RecipeError, match="Unknown --backend"):
        find_model(str(text.model), "tensorrt")


def with_the_graph_of(pair: Pair, monkeypatch, change=lambda path: None) -> None:
    """From now on an export gets an export's graph, as if tracing had gone wrong."""
    monkeypatch.setattr(job, "trace", lambda *args, **kwargs: (None, ["logits"]))
    monkeypatch.setattr(job, "write_graph", lambda program, names, folder, form: other_graph(pair, folder))


def other_graph(pair: Pair, folder: Path) -> None:
    """The graph of an export, whose first class has changed places with its second."""
    import onnx

    model = onnx.load(pair.export / "model.onnx")
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "before"
    indices = onnx.helper.make_tensor(
        "order", onnx.TensorProto.INT64, [classes_of(pair)], [*range(classes_of(pair))][::-1]
    )
    model.graph.initializer.append(indices)
    model.graph.node.append(onnx.helper.make_node("Gather", ["before", "order"], ["logits"], axis=1))
    onnx.save(model, folder / "model.onnx")


def classes_of(pair: Pair) -> int:
    return len(find_model(str(pair.model)).labels)


def test_an_export_that_loses_is_refused_unless_that_is_accepted(text, systems, tmp_path, monkeypatch, caplog):
    with_the_graph_of(text, monkeypatch)
    table = labelled(systems["language_id"], tmp_path / "texts.csv")
    words = ["export", str(text.model), "--output", str(tmp_path / "new" / "export"), "--format", "onnx"]
    words += ["--examples", str(table), "--max_difference", "1e-4"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 3
    assert result.stderr.count("hf_fer: error: ") == 1
    assert "accuracy goes from 1.0000 to 0.0000" in result.stderr
    assert "logits differ by" in result.stderr
    assert "--allow_loss" in result.stderr
    assert list((tmp_path / "new").iterdir()) == []
    assert CliRunner().invoke(cli.app, [*words, "--allow_loss"]).exit_code == 0
    manifest = read_manifest(tmp_path / "new" / "export")
    assert any("accuracy goes from" in reason for reason in manifest.accepted)
    with caplog.at_level(logging.WARNING):
        load_export(tmp_path / "new" / "export")
    assert "was exported in spite of this: logits differ" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"form": "tflite"}, "Unknown --format 'tflite'"),
        ({"dtype": "int4"}, "Unknown --dtype 'int4'"),
        ({"form": "torch_export", "dtype": "int8"}, "int8 is available with --format onnx only"),
        ({"max_metric_drop": -1.0}, "--max_metric_drop must be 0 or more"),
        ({"output": "."}, "exists already"),
        ({"model": "export"}, "is an export; give the folder of the model"),
        ({"examples": "nothing.csv"}, "nothing.csv"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(text, tmp_path, fields, message):
    given = {"model": str(text.model), "output": str(tmp_path / "out"), "form": "onnx", **fields}
    given["model"] = str(text.export) if given["model"] == "export" else given["model"]
    with pytest.raises((RecipeError, ValueError), match=message):
        export_model(Settings(**given))
    assert not list(tmp_path.iterdir())


def test_a_missing_input_is_named(text):
    with pytest.raises(ValueError, match="takes input_ids, attention_mask, and got input_ids"):
        load_export(text.export)(input_ids=torch.ones(1, 4, dtype=torch.long))


def test_a_graph_that_cannot_be_written_leaves_nothing(text, tmp_path, monkeypatch):
    def fail(*args):
        raise RunError("the disk is full")

    monkeypatch.setattr(job, "trace", lambda *args, **kwargs: (None, ["logits"]))
    monkeypatch.setattr(job, "write_graph", fail)
    with pytest.raises(RunError):
        export_model(Settings(str(text.model), str(tmp_path / "out"), "onnx"))
    assert not list(tmp_path.iterdir())
