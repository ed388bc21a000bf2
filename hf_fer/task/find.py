"""Finds the task of a system by its name, and builds the task of a recipe."""

import importlib
import inspect
from pathlib import Path
from typing import Any

from hf_fer import models
from hf_fer.recipe.arguments import (
    DataArguments,
    ModelArguments,
    RecipeError,
    TrainingArguments,
    check_choice,
    make_parser,
    parse,
    read_recipe,
)
from hf_fer.recipe.shipped import shipped_folder
from hf_fer.runtime.checkpoints import has_folds
from hf_fer.task.base import Task, task_names
from hf_fer.task.checks import settle_metric
from hf_fer.task.settings import recipe_with


def load_task(name: str) -> type[Task]:
    """
    The Task class of a system, which by convention is the one defined in `hf_fer.models.<name>.train.task`.

    Raises:
        RecipeError: there is no such system (the message has the closest name), or it has no text for its card.
    """
    check_choice("task", name, task_names())
    card_file(name)
    module = importlib.import_module(f"{models.__name__}.{name}.train.task")
    return next(
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Task) and member.__module__ == module.__name__
    )


def card_file(name: str) -> Path:
    """
    File with a system's text for model cards: `card.md` in its folder, or `model_cards/<name>.md` of the package.

    Raises:
        RecipeError: there is none.
    """
    own = [Path(folder, name, "card.md") for folder in models.__path__]
    places = [*own, shipped_folder("model_cards") / f"{name}.md"]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise RecipeError(f"{name} has no text for its model card: write card.md in the folder of the system.")
    return found


def general_help() -> str:
    """Text of `run.py --help`: usage, the fields that all systems share, and the names of the systems."""
    shared = make_parser((ModelArguments, DataArguments, TrainingArguments), {}).format_help()
    return (
        f"{shared}\nSystems: {', '.join(task_names())}. `run.py RECIPE.json --help` shows a system's own fields too."
    )


def parse_task(argv: list[str]) -> Task:
    """
    Build the task of a command line: `RECIPE.json [--any_field value ...]`, or fields alone.

    Raises:
        RecipeError: the command line or the recipe cannot be run as written.
    """
    recipe, source, rest = {}, "command line", argv
    if argv and not argv[0].startswith("-"):
        recipe, source, rest = read_recipe(argv[0]), argv[0], argv[1:]
    name = _flag(rest, "--task") or recipe.get("task")
    if name is None:
        raise RecipeError(f"{source}: no 'task'. Give a recipe first, or --task with one of {task_names()}.")
    return build_task({**recipe, "task": name}, source, rest)


def build_task(recipe: dict[str, Any], source: str, argv: list[str]) -> Task:
    """
    Build the task of a recipe that has the field `task`.

    Args:
        recipe: Field -> value.
        source: Name of the recipe in error messages.
        argv: Fields that override the recipe, as on a command line.

    Raises:
        RecipeError: the recipe cannot be run as written.
    """
    name = recipe["task"]
    task_class = load_task(name)
    arguments = (task_class.model_arguments, task_class.data_arguments, TrainingArguments)
    parsed, resolved = parse(arguments, recipe, source, argv)
    task = task_class(*parsed, recipe={**resolved, "task": name})
    flags = (word[2:].partition("=")[0] for word in argv if word.startswith("--"))
    task.on_command_line = {flag.replace("-", "_") for flag in flags}
    task.given |= recipe.keys() | task.on_command_line
    settle_metric(task)
    task.check_arguments()
    return task


def _flag(argv: list[str], flag: str) -> str | None:
    for index, word in enumerate(argv):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag and index + 1 < len(argv):
            return argv[index + 1]
    return None


def of_fold(task: Task, fold: int) -> Task:
    """
    The task of one fold, with output in `output_dir/fold_<n>`.

    If `model_name_or_path` holds the models of all folds, the task starts from the model of the same fold.
    """
    fields = {"fold": fold, "output_dir": str(Path(task.training_args.output_dir, f"fold_{fold}"))}
    start = task.model_args.model_name_or_path
    if has_folds(start):
        fields["model_name_or_path"] = str(Path(start, f"fold_{fold}"))
    return with_fields(task, **fields)


def with_fields(task: Task, **fields: Any) -> Task:
    """The task of the same recipe with other values of some fields; raises `RecipeError`."""
    token = {"hub_token": task.training_args.hub_token} if task.training_args.hub_token else {}
    changed = build_task({**recipe_with(task, fields), **token}, "recipe", [])
    changed.given |= task.given
    return changed
