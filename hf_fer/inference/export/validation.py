"""The validation split that a model was chosen on, as inputs for the comparison of an export."""

from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from hf_fer.data.loading import DataError, LoadedData
from hf_fer.experiment.provenance import FILE, contents, read
from hf_fer.inference.inputs import Input, table_inputs
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.base import Task
from hf_fer.task.find import parse_task
from hf_fer.task.predictor import Predictor

MOST = 500
"""Examples that are compared at most; of a larger split they are taken evenly spaced."""
SPLIT = "validation"


def validation_inputs(recipe: str, model: str, predictor: type[Predictor]) -> tuple[list[Input], str]:
    """
    Inputs of the validation split that a recipe describes, with their true answers, and a description of them.

    Args:
        recipe: The recipe file that the model was trained by.
        model: A saved model's folder, or its name on the Hub.
        predictor: Predictor class of the model's system.

    Raises:
        RecipeError: the recipe is for another system, or its validation split is not the one of the model's training.
        DataError: the data cannot be loaded, or has no validation split.
    """
    task = parse_task([recipe, "--model_name_or_path", model, "--do_train", "false"])
    own = predictor.__module__.split(".")[-3]
    if task.name() != own:
        raise RecipeError(f"--recipe {recipe} is for {task.name()}, and {model} is a model of {own}.")
    data = task.load_data()
    if SPLIT not in data.splits or not len(data.splits[SPLIT]):
        raise DataError(f"{recipe}: has no validation split ({data.absent.get(SPLIT, 'it is empty')}).")
    split = data.splits[SPLIT]
    is_own = check_own(task, split, model, recipe)
    chosen = np.unique(np.linspace(0, len(split) - 1, min(MOST, len(split))).round().astype(int))
    inputs = [
        given
        for given in table_inputs(with_targets(task, data, split.select(chosen)), recipe, predictor)
        if given.error is None
    ]
    count = f"{len(inputs)} of {len(split)}" if len(inputs) < len(split) else f"{len(inputs)}"
    whose = "the model's own validation split" if is_own else f"a validation split ({model} has no {FILE})"
    return inputs, f"{count} examples of {whose}, by {Path(recipe).name}"


def check_own(task: Task, split: Dataset, model: str, recipe: str) -> bool:
    """
    Whether the model was chosen on this split; unknown models are false.

    Raises:
        RecipeError: by its `provenance.json`, the model was chosen on another split.
    """
    trainings = read(model)
    if not trainings:
        return False
    known = set(trainings[-1][SPLIT]["examples"])
    found = contents(task, split)[0].examples
    if known != found:
        raise RecipeError(
            f"--recipe {recipe}: {len(known & found)} of the {len(found)} files or texts of its validation split are "
            f"among the {len(known)} that {model} was chosen on, by its {FILE}. Give the recipe and data of the "
            "model's own training, or --examples."
        )
    return True


def with_targets(task: Task, data: LoadedData, split: Dataset) -> pd.DataFrame:
    """Columns with the inputs of a split, and the true answers as texts, if an example has one answer."""
    columns = [name for name in (*task.file_columns, *task.text_columns) if name in split.column_names]
    rows = split.select_columns(columns).to_pandas()
    targets = split[task.target_column]
    if not data.labels:
        rows[task.target_column] = targets
    elif all(isinstance(target, int) for target in targets):
        rows["label"] = [data.labels[target] for target in targets]
    return rows
