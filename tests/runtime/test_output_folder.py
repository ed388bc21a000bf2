"""What is in output_dir already: kept until the new run can stand in its place, untouched if it is not ours."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hf_fer.run import main
from hf_fer.runtime import output_folder

TEXTS = {
    "en": "the rain fell on the old town and nobody came",
    "de": "der Regen fiel auf die alte Stadt und keiner kam",
}

RECIPE = {
    "task": "language_id",
    "label_codes": "as_is",
    "vocab_size": 300,
    "max_length": 32,
    "overlap": 8,
    "near_duplicate_threshold": None,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 8,
    "config_overrides": {"hidden_size": 16, "intermediate_size": 16},
    "disable_tqdm": True,
    "use_cpu": True,
    "report_to": "none",
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Two languages, 20 short texts each."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [
        {"text": f"{sentence} {number * 'la '}", "label": label, "source": f"{label}{number}"}
        for label, sentence in TEXTS.items()
        for number in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts) -> Path:
    """The output of a run that ended."""
    folder = tmp_path_factory.mktemp("finished")
    main([write(folder, texts)])
    return folder / "out"


def write(folder: Path, texts: Path, **fields) -> str:
    path = folder / "recipe.json"
    path.write_text(json.dumps({**RECIPE, "dataset": str(texts), "output_dir": str(folder / "out"), **fields}))
    return str(path)


@pytest.fixture
def recipe(tmp_path, texts):
    return lambda **fields: write(tmp_path, texts, **fields)


@pytest.fixture
def out(tmp_path, finished) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([*argv])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("hf_fer: error") == 1
    return message


class TestAnEarlierRun:
    @pytest.mark.parametrize(
        "fields", [{"dataset": "mistyped.jsonl"}, {"model_name_or_path": "mistyped"}, {"freeze": ["mistyped"]}]
    )
    def test_stays_until_data_and_model_have_loaded(self, recipe, out, capsys, fields):
        before = contents(out)
        assert "mistyped" in error_of(capsys, recipe(overwrite_output_dir=True, **fields))
        assert contents(out) == before

    def test_is_replaced_where_the_recipe_says_so_and_what_a_user_put_there_stays(self, recipe, out):
        steps = {path.name for path in out.glob("checkpoint-*")}
        (out / "report" / "thesis.tex").write_text("years of work")
        (out / "notes.txt").write_text("mine")
        for name in ("report/thesis.tex", "notes.txt"):
            os.utime(out / name, (1e9, 1e9))
        main([recipe(overwrite_output_dir=True, per_device_train_batch_size=16)])
        assert (out / "report" / "thesis.tex").read_text() == "years of work"
        assert (out / "notes.txt").read_text() == "mine"
        assert not steps & {path.name for path in out.glob("checkpoint-*")}
        listed = json.loads((out / output_folder.MARKER).read_text())["files"]
        assert {"model.safetensors", "report/metrics.json"} <= set(listed)
        assert not {"report/thesis.tex", "notes.txt"} & set(listed)

    def test_without_checkpoints_it_is_not_replaced_unasked(self, recipe, out, capsys):
        for checkpoint in out.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        before = contents(out)
        assert "--overwrite_output_dir true" in error_of(capsys, recipe())
        assert "--overwrite_output_dir true" in error_of(capsys, recipe(resume_from_checkpoint=True))
        assert contents(out) == before

    def test_is_not_taken_from_under_the_model_that_starts_from_it(self, recipe, out, capsys):
        before = contents(out)
        message = error_of(capsys, recipe(overwrite_output_dir=True, model_name_or_path=str(out)))
        assert "is in output_dir" in message
        assert contents(out) == before

    def test_of_an_earlier_version_is_known_by_its_manifests_and_its_report_put_aside(self, recipe, out):
        (out / output_folder.MARKER).unlink()
        report = contents(out / "report")
        main([recipe(overwrite_output_dir=True)])
        assert contents(out / "report.earlier") == report


@pytest.mark.parametrize("name", ["report/thesis.tex", "README.md", "config.json", "checkpoint-1/thesis.tex"])
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_folder_of_somebodys_own_is_refused(recipe, finished, tmp_path, capsys, name, overwrite, training):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    start = {} if training else {"model_name_or_path": str(finished)}
    fields = {"output_dir": str(tmp_path / "out"), "overwrite_output_dir": overwrite, "do_train": training, **start}
    if name.startswith("checkpoint") and not (training and overwrite):
        fields |= {"do_train": True, "overwrite_output_dir": True}
    assert name.split("/")[0] in error_of(capsys, recipe(**fields))
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_evaluation_leaves_card_and_report_of_training(recipe, out, texts):
    before = contents(out)
    main([recipe(do_train=False, model_name_or_path=str(out))])
    inside = f"evaluation/{texts.stem}/"
    after = contents(out)
    assert {name: after[name] for name in before if name != output_folder.MARKER} == {
        name: data for name, data in before.items() if name != output_folder.MARKER
    }
    assert f"{inside}report/metrics.json" in after
    assert not [name for name in after if name not in before and not name.startswith(inside)]
    main([recipe(do_train=False, model_name_or_path=str(out))])  # again, in its place


class TestLock:
    def test_two_runs_in_one_folder(self, recipe, tmp_path, capsys):
        (tmp_path / "out").mkdir()
        script = (
            "import sys; from filelock import SoftFileLock\n"
            f"lock = SoftFileLock({str(tmp_path / 'out' / output_folder.LOCK)!r}); lock.acquire()\n"
            "print('held', flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert other.stdout.readline() == "held\n"
        message = error_of(capsys, recipe())
        assert f"process {other.pid} on {socket.gethostname()}" in message
        other.kill()
        other.communicate()
        main([recipe()])  # its owner is dead
        assert not (tmp_path / "out" / output_folder.LOCK).exists()

    def test_a_run_that_fails_lets_go_and_leaves_no_empty_folder(self, recipe, tmp_path, capsys):
        error_of(capsys, recipe(dataset="mistyped.jsonl"))
        assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_to(recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert "cannot be written to" in error_of(capsys, recipe(output_dir=str(tmp_path / "file" / "out")))
    assert "cannot be written to" in error_of(capsys, recipe(output_dir="/proc/out"))
