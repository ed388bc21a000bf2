"""Recipes and command lines: what they mean, and what is refused before anything loads."""

import json
from pathlib import Path

import pytest

from hf_fer.recipe.arguments import RecipeError
from hf_fer.run import main
from hf_fer.task.find import parse_task

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "training_args").rglob("*.json"))


@pytest.fixture
def recipe(tmp_path):
    def write(**fields) -> str:
        path = tmp_path / "recipe.json"
        base = {"task": "multimodal_fer", "dataset": "demo", "model_size": "tiny", "use_cpu": True}
        path.write_text(json.dumps({**base, "output_dir": str(tmp_path / "out"), **fields}))
        return str(path)

    return write


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_parses(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no recipe has been run
    recipe = json.loads(path.read_text())
    earlier = recipe.get("model_name_or_path")
    argv = [str(path), "--use_cpu", "true", "--bf16", "false"]
    if recipe.get("stage", 1) > 1:
        with pytest.raises(RecipeError, match=earlier):  # a later stage wants the output of the one before it
            parse_task(argv)
        return
    task = parse_task(argv)
    assert task.recipe["task"] == task.name()


def test_json_then_command_line(recipe):
    path = recipe(learning_rate=0.1, num_train_epochs=5, modalities=["audio"])
    task = parse_task([path, "--learning_rate", "0.2", "--augment", "false", "--modalities", "audio", "video"])
    assert task.training_args.learning_rate == 0.2
    assert task.training_args.num_train_epochs == 5.0
    assert task.data_args.augment is False
    assert task.data_args.modalities == ["audio", "video"]
    assert task.recipe["learning_rate"] == 0.2


def test_a_recipe_is_optional():
    task = parse_task(["--task", "multimodal_fer", "--dataset", "demo", "--use_cpu", "true"])
    assert task.name() == "multimodal_fer"


def test_objects_on_the_command_line(recipe):
    task = parse_task([recipe(), "--augmentation", '{"gain_db": 1}', "--config_overrides", '{"num_segments": 3}'])
    assert task.data_args.augmentation == {"gain_db": 1}
    assert task.model_args.config_overrides == {"num_segments": 3}


def test_warmup_ratio_reaches_the_scheduler(recipe):
    args = parse_task([recipe(warmup_ratio=0.25)]).training_args
    assert args.get_warmup_steps(100) == 25


def test_whole_numbers_are_fine_where_a_fraction_is_meant(recipe):
    assert parse_task([recipe(learning_rate=1)]).training_args.learning_rate == 1.0


def test_the_best_checkpoint_is_chosen_by_the_tasks_own_metric(recipe):
    args = parse_task([recipe()]).training_args
    assert args.metric_for_best_model == "uar"
    assert args.greater_is_better
    loss = parse_task([recipe(metric_for_best_model="loss")]).training_args
    assert not loss.greater_is_better


def test_fp16_without_an_accelerator_is_said_and_left_out(recipe, caplog):
    assert not parse_task([recipe(fp16=True)]).training_args.fp16
    assert "training in fp32" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learnin_rate": 0.1}, "did you mean 'learning_rate'"),
        ({"learning_rate": "fast"}, "'learning_rate' has the wrong type"),
        ({"num_frames": 1.5}, "'num_frames' has the wrong type"),
        ({"augment": "yes"}, "'augment' has the wrong type"),
        ({"modalities": "audio"}, "'modalities' has the wrong type"),
        ({"modalities": ["audoi"]}, "did you mean 'audio'"),
        ({"augmentation": {"gain": 3}}, "did you mean 'gain_db'"),
        ({"config_overrides": [1]}, "'config_overrides' has the wrong type"),
        ({"metric_for_best_model": "uer"}, "did you mean 'uar'"),
        ({"task": "multimodal"}, "did you mean 'multimodal_fer'"),
        ({"warmup_ratio": 2}, "warmup_ratio must be in"),
        ({"eval_strategy": "never"}, "not a valid IntervalStrategy"),
        ({"model_size": "huge"}, "'model_size' has the wrong type"),
        ({"dataset": ""}, "dataset is not set"),
        ({"remove_unused_columns": True}, "must stay false"),
        ({"early_stopping_patience": 2, "load_best_model_at_end": False}, "needs load_best_model_at_end"),
    ],
)
def test_what_is_refused(recipe, fields, message):
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")):
        parse_task([recipe(**fields)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learnin_rate", "1"], "did you mean 'learning_rate'"),
        (["--learning_rate", "fast"], "invalid float value"),
        (["--model_size", "huge"], "invalid choice"),
        (["--config_overrides", "{"], "is not JSON"),
    ],
)
def test_command_lines_that_are_refused(recipe, words, message):
    with pytest.raises(RecipeError, match=message):
        parse_task([recipe(), *words])


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "line 1"), ("[1]", "one JSON object"), ('{"task": "a", "task": "b"}', "given twice"), ("{}", "no 'task'")],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(RecipeError, match=message):
        parse_task([str(tmp_path / "r.json")])


def test_a_missing_recipe(tmp_path):
    with pytest.raises(RecipeError, match="not found"):
        parse_task([str(tmp_path / "no.json")])


def test_errors_are_one_line_and_exit_status_2(recipe, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([recipe(learnin_rate=1)])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hf_fer: error: ")
    assert len(captured.err.splitlines()) == 1


def test_help(recipe, capsys):
    main(["--help"])
    assert "multimodal_fer" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([recipe(), "--help"])
    assert "--face_crop" in capsys.readouterr().out


def test_unknown_configuration_fields_have_the_nearest_name(recipe):
    task = parse_task([recipe(config_overrides={"num_segment": 3})])
    with pytest.raises(RecipeError, match="did you mean 'num_segments'"):
        task.build_model(None, None)


@pytest.mark.parametrize("path", sorted((ROOT / "accelerate_configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_accelerate_configuration_is_one(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.compute_environment == "LOCAL_MACHINE"
    assert config.num_processes >= 1
