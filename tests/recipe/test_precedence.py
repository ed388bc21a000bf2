"""What is given last wins: recipe, command line, search and launcher, and what cannot be obeyed is refused."""

import json

import pytest

from hf_fer.recipe.arguments import RecipeError
from hf_fer.recipe.search_space import recipe_fields
from hf_fer.task.find import parse_task, with_fields


@pytest.fixture
def recipe(tmp_path):
    def write(**fields) -> str:
        path = tmp_path / "recipe.json"
        base = {"task": "multimodal_fer", "dataset": "demo", "model_size": "tiny", "use_cpu": True}
        path.write_text(json.dumps({**base, "output_dir": str(tmp_path / "out"), **fields}))
        return str(path)

    return write


def test_warmup_steps_on_the_command_line_take_the_recipes_ratio_away(recipe):
    args = parse_task([recipe(warmup_ratio=0.1), "--warmup_steps", "7"]).training_args
    assert args.get_warmup_steps(1000) == 7
    assert args.warmup_ratio is None


def test_a_warmup_ratio_on_the_command_line_takes_the_recipes_steps_away(recipe):
    args = parse_task([recipe(warmup_steps=7), "--warmup_ratio", "0.1"]).training_args
    assert args.get_warmup_steps(1000) == 100


def test_a_search_over_warmup_steps_reaches_the_schedule(recipe):
    task = parse_task([recipe(warmup_ratio=0.1)])
    trial = with_fields(task, **recipe_fields(task.recipe, {"warmup_steps": 3}))
    assert trial.training_args.get_warmup_steps(1000) == 3


@pytest.mark.parametrize("fields", [{"warmup_ratio": 0.1, "warmup_steps": 5}])
def test_two_ways_to_say_how_long_warmup_lasts_are_refused_together(recipe, fields):
    with pytest.raises(RecipeError, match="warmup_ratio and warmup_steps"):
        parse_task([recipe(**fields)])
    with pytest.raises(RecipeError, match="warmup_ratio and warmup_steps"):
        parse_task([recipe(hp_space={name: [0, 0.5] for name in fields})])


def test_epochs_on_the_command_line_take_the_recipes_steps_away(recipe):
    args = parse_task([recipe(max_steps=5), "--num_train_epochs", "2"]).training_args
    assert (args.max_steps, args.num_train_epochs) == (-1, 2)
    args = parse_task([recipe(num_train_epochs=2), "--max_steps", "-1"]).training_args
    assert args.num_train_epochs == 2


def test_objects_on_the_command_line_add_to_the_recipes(recipe):
    shipped = {"temporal_num_layers": 2, "vision_config": {"patch_size": 16, "num_hidden_layers": 2}}
    path = recipe(config_overrides=shipped, unfreeze={"audio": 2}, freeze=["audio", "vision"])
    later = {"classifier_dropout": 0.5, "vision_config": {"num_hidden_layers": 1}}
    task = parse_task([path, "--config_overrides", json.dumps(later), "--unfreeze", '{"vision": 3}'])
    assert task.model_args.config_overrides == {
        "temporal_num_layers": 2,
        "vision_config": {"patch_size": 16, "num_hidden_layers": 1},
        "classifier_dropout": 0.5,
    }
    assert task.model_args.unfreeze == {"audio": 2, "vision": 3}
    assert task.recipe["config_overrides"] == task.model_args.config_overrides


@pytest.mark.parametrize("system", ["csr", "language_id"])
def test_every_system_merges_its_objects(tmp_path, system):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"task": system, "dataset": "demo", "use_cpu": True, "config_overrides": {"a": 1}}))
    assert parse_task([str(path), "--config_overrides", '{"b": 2}']).recipe["config_overrides"] == {"a": 1, "b": 2}


def test_null_takes_the_recipes_object_away(recipe):
    task = parse_task([recipe(config_overrides={"num_segments": 3}), "--config_overrides", "null"])
    assert task.model_args.config_overrides == {}


def test_a_dimension_of_a_search_is_replaced_whole(recipe):
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "weight_decay": [0.0, 0.1]}
    task = parse_task([recipe(hp_space=space), "--hp_space", '{"learning_rate": {"low": 0, "high": 1, "step": 0.5}}'])
    assert task.training_args.hp_space["learning_rate"] == {"low": 0, "high": 1, "step": 0.5}
    assert task.training_args.hp_space["weight_decay"] == [0.0, 0.1]


def test_full_precision_that_is_asked_for_holds_under_the_launchers_half(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    task = parse_task([recipe(), "--fp16", "false"])
    assert task.training_args.mixed_precision == "no"
    assert with_fields(task, split_seed=1).training_args.mixed_precision == "no"  # a fold, a trial


def test_no_workers_on_the_command_line_take_away_what_only_workers_need(recipe):
    path = recipe(dataloader_num_workers=2, dataloader_persistent_workers=True, dataloader_prefetch_factor=4)
    args = parse_task([path, "--dataloader_num_workers", "0"]).training_args
    assert not args.dataloader_persistent_workers
    assert args.dataloader_prefetch_factor is None
    with pytest.raises(RecipeError, match="dataloader_num_workers"):
        parse_task([recipe(dataloader_persistent_workers=True)])
