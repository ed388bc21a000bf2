"""Hyperparameter search with Optuna itself: trials, their study, and the recipe that comes of it."""

import csv
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from drills import two_processes
from experiment.test_run import FAST, metrics_of

from hf_fer.models.multimodal_fer.train.clips import ClipTransform
from hf_fer.recipe.arguments import RecipeError
from hf_fer.recipe.search_space import read_space, recipe_fields
from hf_fer.run import main
from hf_fer.task.base import task_names
from hf_fer.task.find import load_task, parse_task

ROOT = Path(__file__).parents[2]

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "per_device_train_batch_size": [4, 8],
    "warmup_ratio": [0.0, 0.5],
    "config_overrides.lfm2_config.hidden_size": [32, 64],
}


@pytest.fixture
def recipe(tmp_path, small_ravdess):
    def write(**fields) -> str:
        path = tmp_path / "recipe.json"
        whole = {**FAST, "dataset": str(small_ravdess), "output_dir": str(tmp_path / "out"), "modalities": ["audio"]}
        whole |= {
            "max_train_samples": 16,
            "metric_for_best_model": "loss",
            "hp_trials": 3,
            "hp_space": SPACE,
            **fields,
        }
        path.write_text(json.dumps(whole))
        return str(path)

    return write


def trials_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "report" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def study_of(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name="search", storage=f"sqlite:///{folder / 'study.db'}")


KILLED = """
import os, signal, sys
import optuna
study = optuna.load_study(study_name="search", storage=f"sqlite:///{sys.argv[1]}")
study.ask().suggest_float("learning_rate", 1e-4, 1e-1, log=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_search_resume_and_best_recipe(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    main([recipe(early_stopping_patience=1)])
    trials = trials_of(out)
    assert all(trial.intermediate_values for trial in study_of(out).trials), "patience is each trial's own"
    assert [trial["state"] for trial in trials] == ["complete"] * 3
    losses = [float(trial["loss"]) for trial in trials]
    assert losses == sorted(losses)
    assert len(set(losses)) == 3
    page = (out / "report" / "report.md").read_text()
    assert page in capsys.readouterr().out
    assert f"{losses[0]:.4g} |" in page
    assert (out / "report" / "search.png").stat().st_size > 10_000
    assert not list(out.rglob("checkpoint-*")), "trials must not fill the disk"
    assert not list(out.rglob("*.safetensors"))
    check_that_the_best_recipe_gives_what_its_trial_gave(out, trials[0])

    with pytest.raises(SystemExit):
        main([recipe()])
    assert "earlier search" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([recipe(early_stopping_patience=1, num_train_epochs=3), "--resume_from_checkpoint", "true"])
    assert "another recipe, different in num_train_epochs" in capsys.readouterr().err

    killed = subprocess.run([sys.executable, "-c", KILLED, str(out / "study.db")], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    cut_short = study_of(out).trials[-1]
    assert cut_short.state == optuna.trial.TrialState.RUNNING
    main([recipe(early_stopping_patience=1, hp_trials=4), "--resume_from_checkpoint", "true"])
    study = study_of(out)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3 + ["FAIL", "COMPLETE"]
    assert study.trials[-1].params["learning_rate"] == cut_short.params["learning_rate"]
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 4
    assert [trial["trial"] for trial in trials_of(out)][-1] == "3"


def check_that_the_best_recipe_gives_what_its_trial_gave(out: Path, trial: dict[str, str]) -> None:
    """Each of its settings must have reached the trial, and each of the trial's the recipe."""
    best = json.loads((out / "best_recipe.json").read_text())
    assert best["learning_rate"] == float(trial["learning_rate"])
    assert best["config_overrides"]["audio_config"] == FAST["config_overrides"]["audio_config"]
    assert not {"hp_trials", "hp_space"} & best.keys()
    main([str(out / "best_recipe.json")])
    assert metrics_of(out / "best")["validation"]["loss"] == pytest.approx(float(trial["loss"]), abs=1e-5)


def test_bad_trials_are_pruned(recipe, tmp_path):
    """A trial at a learning rate of nearly nothing stays behind five good ones, and ends after its first epoch."""
    rates = [0.003, 0.004, 0.005, 0.006, 0.007, 1e-9]
    (tmp_path / "out").mkdir()
    study = optuna.create_study(study_name="search", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    for rate in rates:
        study.enqueue_trial({"learning_rate": rate})
    fields = {"hp_trials": 6, "hp_space": {"learning_rate": rates}, "max_eval_samples": 8}
    main([recipe(**fields, resume_from_checkpoint=True)])
    assert [trial.state.name for trial in study_of(tmp_path / "out").trials] == ["COMPLETE"] * 5 + ["PRUNED"]
    assert [trial["state"] for trial in trials_of(tmp_path / "out")] == ["complete"] * 5 + ["pruned"]


def test_a_trial_that_failed_is_made_up_for(recipe, tmp_path):
    rates = [1e30, 0.003]
    (tmp_path / "out").mkdir()
    study = optuna.create_study(study_name="search", storage=f"sqlite:///{tmp_path / 'out' / 'study.db'}")
    for rate in (*rates, 0.003):
        study.enqueue_trial({"learning_rate": rate})
    fields = {"hp_trials": 2, "hp_space": {"learning_rate": rates}, "max_grad_norm": 0.0, "num_train_epochs": 1}
    main([recipe(**fields, max_train_samples=8, resume_from_checkpoint=True)])
    assert [trial.state.name for trial in study_of(tmp_path / "out").trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_batch_that_is_found_is_not_searched_for(recipe):
    with pytest.raises(RecipeError, match="leave auto_find_batch_size out"):
        parse_task([recipe(hp_trials=1, hp_space={"learning_rate": [0.1]}, auto_find_batch_size=True)])


def test_trials_that_come_apart_do_not_count(recipe, tmp_path, capsys):
    fields = {"hp_trials": 1, "hp_space": {"learning_rate": [1e30]}, "max_grad_norm": 0.0, "num_train_epochs": 1}
    with pytest.raises(SystemExit):
        main([recipe(**fields, max_train_samples=8)])
    assert "No trial was completed" in capsys.readouterr().err
    assert [trial.state.name for trial in study_of(tmp_path / "out").trials] == ["FAIL"]


def test_trials_skip_steps_that_are_not_finite(recipe, tmp_path, monkeypatch, caplog):
    """Also those after the first, whose model and accelerator are others."""
    monkeypatch.setattr(ClipTransform, "example", ClipTransform.example)  # what spoil replaces comes back
    two_processes.spoil(5)
    fields = {"hp_trials": 2, "hp_space": {"learning_rate": [0.001]}, "num_train_epochs": 1}
    main([recipe(**fields, per_device_train_batch_size=16, max_train_samples=None)])
    assert [record.getMessage().count("is skipped: the loss is not finite") for record in caplog.records].count(1) == 2
    first, second = (float(trial["loss"]) for trial in trials_of(tmp_path / "out"))
    assert math.isfinite(first)
    assert first == second


def test_a_trial_of_skipped_steps_is_a_failed_one(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ClipTransform, "example", ClipTransform.example)
    two_processes.spoil(5)
    with pytest.raises(SystemExit):
        main([recipe(hp_trials=1, hp_space={"learning_rate": [0.001]}, max_skipped_steps=1, max_train_samples=None)])
    assert "No trial was completed" in capsys.readouterr().err
    assert [trial.state.name for trial in study_of(tmp_path / "out").trials] == ["FAIL"]


def test_a_stock_text_model_too(tmp_path):
    demo = str(ROOT / "training_args" / "demo" / "language_id.json")
    space = {"learning_rate": [0.001, 0.01], "config_overrides.hidden_size": [32, 64]}
    fields = {"num_train_epochs": 1, "output_dir": tmp_path, "hp_trials": 2, "hp_space": json.dumps(space)}
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    main([demo, *words, "--report_to", "none", "--disable_tqdm", "true", "--overwrite_output_dir", "false"])
    assert [trial["state"] for trial in trials_of(tmp_path)] == ["complete"] * 2
    assert all(float(trial["weighted_f1"]) > 0.1 for trial in trials_of(tmp_path))
    parse_task([str(tmp_path / "best_recipe.json")])


def test_the_stages_of_csr_too(tmp_path):
    """Their models are built of what the task knows of its data, and scored with the model that is trained."""
    demo = str(ROOT / "training_args" / "demo" / "csr_1_concepts.json")
    space = {"config_overrides.num_prototypes": [2, 4], "learning_rate": {"low": 0.001, "high": 0.003, "log": True}}
    fields = {"num_train_epochs": 1, "output_dir": tmp_path, "hp_trials": 2, "hp_space": json.dumps(space)}
    fields |= {"max_train_samples": 48, "max_eval_samples": 24}
    words = [word for name, value in fields.items() for word in (f"--{name}", str(value))]
    main([demo, *words, "--report_to", "none", "--disable_tqdm", "true"])
    trials = trials_of(tmp_path)
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    assert all(0 < float(trial["concept_auroc"]) < 1 for trial in trials)
    parse_task([str(tmp_path / "best_recipe.json")])


@pytest.mark.parametrize("name", task_names())
def test_what_a_task_lets_be_searched_is_a_field_of_its_model(name):
    task = load_task(name)
    assert set(task.searched_fields) <= set(task.model_arguments.__dataclass_fields__)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learnin_rate": [1]}, "did you mean 'learning_rate'"),
        ({"output_dir": ["a", "b"]}, "'output_dir' cannot be searched"),
        ({"augmentation.gain_db": [1]}, "cannot be searched"),
        ({"config_overrides.": [1]}, "cannot be searched"),
        ({"learning_rate": 0.1}, "needs a list, or"),
        ({"learning_rate": []}, "needs a list of numbers"),
        ({"learning_rate": {"low": 1}}, "needs numbers low < high"),
        ({"learning_rate": {"low": 2, "high": 1}}, "needs numbers low < high"),
        ({"learning_rate": {"low": 0, "high": 1.0, "log": True}}, "needs low > 0"),
        ({"learning_rate": {"low": 1, "hihg": 2}}, "did you mean 'high'"),
        ({}, "needs an hp_space"),
    ],
)
def test_spaces_that_are_refused(recipe, space, message):
    with pytest.raises(RecipeError, match=message):
        parse_task([recipe(hp_space=space)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eval_strategy": "no", "load_best_model_at_end": False}, "eval_strategy of steps or epoch"),
        ({"protocol": "luna_5fold", "fold": "all"}, "do not go together"),
        ({"push_to_hub": True}, "leave push_to_hub out"),
        ({"resume_from_checkpoint": "some/folder"}, "true, not a folder"),
    ],
)
def test_searches_that_are_refused(recipe, fields, message):
    with pytest.raises(RecipeError, match=message):
        parse_task([recipe(**fields)])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"config_overrides.num_segment": [2]}, "did you mean 'num_segments'"),
        ({"config_overrides.classifier_dropout": {"low": 0.0, "high": 2.0}}, "classifier_dropout must be in"),
        ({"optim": ["adamw_torch", "adamw_totch"]}, "adamw_totch"),
    ],
)
def test_settings_that_no_model_has_stop_the_search_before_its_first_trial(recipe, tmp_path, capsys, space, message):
    with pytest.raises(SystemExit) as stopped:
        main([recipe(hp_space=space)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "study.db").exists()


def test_without_optuna_the_extra_is_named(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError, match=r"pip install 'hf_fer\[hpo\]'"):
        parse_task([recipe()])
    assert parse_task([recipe(hp_trials=0)]).training_args.hp_trials == 0


def test_dimensions_draw_what_they_say():
    space = read_space(
        {"a": {"low": 1, "high": 5, "step": 2}, "b": {"low": 0.1, "high": 0.3, "step": 0.1}, "c": [None, "x"]},
        "abc",
        [],
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [[dimension.suggest(trial) for dimension in space] for trial in (study.ask() for _ in range(60))]
    assert {row[0] for row in drawn} == {1, 3, 5}
    assert {round(row[1], 6) for row in drawn} == {0.1, 0.2, 0.3}
    assert {row[2] for row in drawn} == {None, "x"}


def test_settings_reach_into_objects_and_leave_the_recipe_alone():
    recipe = {"learning_rate": 1, "config_overrides": {"audio_config": {"a": 1, "b": 2}}}
    settings = {"learning_rate": 2, "config_overrides.audio_config.a": 9, "config_overrides.c": 3}
    fields = recipe_fields(recipe, settings)
    assert fields == {"learning_rate": 2, "config_overrides": {"audio_config": {"a": 9, "b": 2}, "c": 3}}
    assert recipe["config_overrides"] == {"audio_config": {"a": 1, "b": 2}}
