"""What is advised where memory runs out can be obeyed, and what cannot be is refused before data are read."""

import json
import shlex
from pathlib import Path

import pytest

from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.failures import memory_advice
from hf_fer.task.base import Task
from hf_fer.task.find import parse_task

RECIPES = Path(__file__).parent.parent / "training_args"
BACKBONES = {"medmae": True, "vit": True, "resnet50": False, "convnext": False}
LEAST = ["--per_device_train_batch_size", "1", "--per_device_eval_batch_size", "1"]
FIRST_RECIPES = sorted(
    path
    for path in RECIPES.rglob("*.json")
    if json.loads(path.read_text()).get("stage", 1) == 1 and path.stem != "ravdess_finetune_vision"
)


def advice_for(task: Task, evaluating: bool) -> list[str]:
    return memory_advice(task.training_args, task.memory_hints(), evaluating, task.can_checkpoint())


def flags_of(advice: str) -> list[str]:
    return shlex.split(advice.partition(" (now")[0])


@pytest.mark.parametrize("evaluating", [False, True], ids=["training", "evaluation"])
@pytest.mark.parametrize("recipe", FIRST_RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipes_advice_can_be_obeyed(recipe, evaluating):
    for start in ([str(recipe)], [str(recipe), *LEAST]):
        for advice in advice_for(parse_task(start), evaluating):
            parse_task([*start, *flags_of(advice)])


@pytest.mark.parametrize(("backbone", "can"), BACKBONES.items())
def test_advice_names_gradient_checkpointing_only_where_the_backbone_supports_it(backbone, can):
    task = parse_task([str(RECIPES / "demo" / "csr_1_concepts.json"), *LEAST, "--backbone", backbone])
    assert ("--gradient_checkpointing true (now false)" in advice_for(task, evaluating=False)) == can


@pytest.mark.parametrize("backbone", [name for name, can in BACKBONES.items() if not can])
def test_gradient_checkpointing_is_refused_before_data_are_read(backbone, tmp_path):
    recipe, table = str(RECIPES / "csr_1_concepts.json"), str(tmp_path / "not_there.csv")
    argv = [recipe, "--dataset", table, "--backbone", backbone, "--gradient_checkpointing", "true"]
    with pytest.raises(RecipeError, match="gradient_checkpointing: the layers of this model do not support it"):
        parse_task(argv)
