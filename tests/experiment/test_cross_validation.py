"""Cross-validation: every fold a run, one summary, and what a kill leaves to do."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import warm
from experiment.test_run import FAST, metrics_of

from hf_fer.recipe.arguments import RecipeError
from hf_fer.run import main
from hf_fer.task.find import parse_task
from hf_fer.task.settings import num_folds

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, small_ravdess) -> Path:
    """Two classes, of the sound of all 24 actors."""
    rows = [
        {"audio": str(path), "label": "loud" if path.name[6:8] == "05" else "quiet", "group": path.parent.name}
        for path in sorted(small_ravdess.rglob("*.mp4"))
        if path.name[6:8] in ("02", "05")
    ]
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(tmp_path, manifest):
    def write(**fields) -> str:
        path = tmp_path / "recipe.json"
        whole = {**FAST, "dataset": str(manifest), "protocol": "group_kfold", "num_folds": 3, "fold": "all"}
        whole |= {"modalities": ["audio"], "max_train_samples": 8, "output_dir": str(tmp_path / "out"), **fields}
        path.write_text(json.dumps(whole))
        return str(path)

    return write


def test_killed_then_resumed(recipe, tmp_path, capsys):
    """Killed without notice in the second fold: the first is kept as it is, the others are trained to their end."""
    path, out = recipe(), tmp_path / "out"
    process = subprocess.Popen(
        [warm.python(), str(ROOT / "hf_fer" / "run.py"), path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not list((out / "fold_1").glob("checkpoint-*/trainer_state.json")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    errors = process.stderr.read()  # its end is that of the last process that writes
    assert process.wait() == -signal.SIGKILL, errors.decode()[-2000:]
    process.stderr.close()
    partial = metrics_of(out)
    assert list(partial["folds"]) == ["0"]
    assert partial["unfinished"] == [1, 2]
    assert partial["std"] == {}
    assert "NOT FINISHED: folds 1, 2" in (out / "report" / "report.md").read_text()
    before = {name: os.stat(out / "fold_0" / name).st_mtime_ns for name in ("model.safetensors", "README.md")}

    with pytest.raises(SystemExit):
        main([path])
    assert "--resume_from_checkpoint true" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([path, "--resume_from_checkpoint", "true", "--learning_rate", "0.1"])
    assert "another recipe, different in learning_rate" in capsys.readouterr().err
    (out / "report").rename(out / "away")  # as before the first fold is finished
    with pytest.raises(SystemExit):
        main([path, "--resume_from_checkpoint", "true", "--seed", "5"])
    assert "another recipe, different in seed" in capsys.readouterr().err
    (out / "away").rename(out / "report")
    main([path, "--resume_from_checkpoint", "true"])
    assert {name: os.stat(out / "fold_0" / name).st_mtime_ns for name in before} == before

    summary = metrics_of(out)
    assert list(summary["folds"]) == ["0", "1", "2"]
    assert summary["unfinished"] == []
    runs = [metrics_of(out / f"fold_{fold}") for fold in range(3)]
    assert [run["protocol"] for run in runs] == [f"group_kfold, fold {fold}" for fold in range(3)]
    assert [json.loads((out / f"fold_{f}/trainer_state.json").read_text())["epoch"] for f in range(3)] == [2.0] * 3
    uars = [run["test"]["uar"] for run in runs]
    assert summary["mean"]["test"]["uar"] == pytest.approx(np.mean(uars))
    assert summary["std"]["test"]["uar"] == pytest.approx(np.std(uars, ddof=1))
    with (out / "report" / "folds.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if (row["split"], row["metric"]) == ("test", "uar"))
    assert [float(row[f"fold_{fold}"]) for fold in range(3)] == pytest.approx(uars, abs=1e-4)
    check_that_every_group_is_tested_once(out, summary)
    page = (out / "report" / "report.md").read_text()
    assert "Folds 0 (`fold_0/`), 1 (`fold_1/`), 2 (`fold_2/`)" in page
    assert "NOT FINISHED" not in page
    assert page in capsys.readouterr().out

    main([path, "--do_train", "false", "--model_name_or_path", str(out), "--overwrite_output_dir", "true"])
    assert os.stat(out / "fold_0" / "model.safetensors").st_mtime_ns == before["model.safetensors"]
    assert [metrics_of(out / f"fold_{fold}")["test"]["uar"] for fold in range(3)] == uars


def check_that_every_group_is_tested_once(out: Path, summary: dict) -> None:
    groups, right, clips = [], 0, 0
    for fold in range(3):
        with (out / f"fold_{fold}" / "report" / "predictions.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        groups += sorted({row["group"] for row in rows})
        right += sum(row["label"] == row["predicted"] for row in rows)
        clips += len(rows)
    assert len(groups) == len(set(groups)) == 24
    assert summary["pooled_test"]["accuracy"] == pytest.approx(right / clips)
    assert summary["pooled_test"]["samples"] == clips == 48
    assert summary["pooled_test"]["bootstrap"]["units"] == 24


def test_a_dry_run_shows_one_fold(recipe, tmp_path, capsys):
    main([recipe(), "--dry_run", "true"])
    page = capsys.readouterr().out
    assert "Fold 0 of 3" in page
    assert "protocol group_kfold, fold 0" in page
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": "manifest"}, "'manifest' has none"),
        ({"push_to_hub": True}, "leave push_to_hub out"),
        ({"resume_from_checkpoint": "some/folder"}, "true, not a folder"),
        ({"fold": "al"}, "number from 0, or 'all'"),
        ({"fold": -1}, "number from 0, or 'all'"),
        ({"num_folds": 2}, "num_folds must be at least 3"),
    ],
)
def test_what_is_refused(recipe, fields, message):
    with pytest.raises(RecipeError, match=message):
        parse_task([recipe(**fields)])


def test_fold_on_the_command_line(recipe):
    assert parse_task([recipe(fold=0), "--fold", "2"]).data_args.fold == 2
    task = parse_task([recipe(fold=0), "--fold", "all"])
    assert task.data_args.fold == "all"
    assert num_folds(task) == 3
