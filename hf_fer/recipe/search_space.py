"""Search space of a hyperparameter search, as a recipe writes it in `hp_space`."""

import copy
import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from hf_fer.recipe.arguments import RecipeError, TrainingArguments, check_choice, json_object, nearest

# Training fields that the Trainer reads at every call of `train`, so that they may change between trials.
TRAINING_FIELDS = (
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "max_grad_norm",
    "max_steps",
    "num_train_epochs",
    "optim",
    "per_device_train_batch_size",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
)


@dataclass(frozen=True)
class Dimension:
    """
    One dimension of a search space.

    Args:
        name: Name of a field, or `field.key` for a key of a field that is an object.
        choices: Values to choose from, or `None` where the dimension is a range.
        low, high: Ends of the range, both included; integers are drawn if both are integers.
        log: Whether values are drawn on a logarithmic scale.
        step: Distance between neighbouring values of the range.
    """

    name: str
    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None

    def suggest(self, trial: Any) -> Any:
        """Value of this dimension for one trial, an `optuna.Trial`."""
        if self.choices is not None:
            return trial.suggest_categorical(self.name, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def extremes(self) -> list[Any]:
        """Values to check on behalf of all: the ends of a range, or every choice."""
        return [self.low, self.high] if self.choices is None else list(self.choices)


def read_space(space: dict[str, Any], fields: Collection[str], objects: Collection[str]) -> list[Dimension]:
    """
    Read the dimensions of a recipe's `hp_space`.

    Args:
        space: Field -> list of choices, or `{"low", "high"}` with an optional `"log"` or `"step"`.
        fields: Names of the fields that may be searched.
        objects: Names of the fields that are objects, whose keys may be searched as `field.key`.

    Raises:
        RecipeError: a field cannot be searched (the message has the closest that can), or a range is invalid.
    """
    dimensions = []
    for name, values in space.items():
        inside = "." in name and name.split(".")[0] in objects and all(name.split("."))
        if not inside and name not in fields:
            keys = "".join(f", {field}.<key>" for field in sorted(objects))
            valid = f"{', '.join(sorted(fields))}{keys}"
            raise RecipeError(f"hp_space: {name!r} cannot be searched{nearest(name, fields)} Valid: {valid}.")
        dimensions.append(_dimension(name, values))
    return dimensions


def _dimension(name: str, values: Any) -> Dimension:
    if isinstance(values, list):
        if not values or not all(isinstance(value, str | int | float | None) for value in values):
            raise RecipeError(f"hp_space: {name!r} needs a list of numbers, texts or true and false, got {values!r}.")
        return Dimension(name, choices=tuple(values))
    if not isinstance(values, dict):
        raise RecipeError(f'hp_space: {name!r} needs a list, or {{"low": ..., "high": ...}}, got {values!r}.')
    for key in values:
        check_choice(f"key of hp_space {name!r}", key, ("low", "high", "log", "step"))
    low, high, step = (values.get(key) for key in ("low", "high", "step"))
    log = values.get("log", False)
    numbers = (low, high, 1 if step is None else step)
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers) or low >= high:
        raise RecipeError(f"hp_space: {name!r} needs numbers low < high, got {values!r}.")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)) or (step is not None and step <= 0):
        raise RecipeError(
            f"hp_space: {name!r} got {values!r}; log is true or false, needs low > 0 and excludes step; step is > 0."
        )
    return Dimension(name, low=low, high=high, log=log, step=step)


def recipe_fields(recipe: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """
    The fields of a recipe that the settings of a trial change.

    Args:
        recipe: Field -> value; it is not modified.
        settings: Name of a dimension -> value.

    Returns:
        Field -> new value; where a key of an object changes, the whole new object.
    """
    fields: dict[str, Any] = {}
    for name, value in settings.items():
        field, *keys = name.split(".")
        if not keys:
            fields[field] = value
            continue
        inner = fields.setdefault(field, copy.deepcopy(json_object(field, recipe.get(field))))
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = value
    return fields


def check_search(args: TrainingArguments, fold: int | str, space: list[Dimension]) -> None:
    """Raises `RecipeError` where a hyperparameter search does not go with the rest of the recipe."""
    if not space:
        raise RecipeError("hp_trials needs an hp_space: the fields to search and their choices or ranges.")
    if importlib.util.find_spec("optuna") is None:
        raise RecipeError("hp_trials needs Optuna, which is not installed: pip install 'hf_fer[hpo]'.")
    if not args.do_train or args.eval_strategy == "no":
        raise RecipeError("hp_trials needs do_train, and an eval_strategy of steps or epoch to choose by.")
    if fold == "all":
        raise RecipeError("hp_trials and fold 'all' do not go together: search on one fold, then train all.")
    if args.push_to_hub:
        raise RecipeError("hp_trials saves no model to push: leave push_to_hub out and push a run of the best recipe.")
    if args.auto_find_batch_size:
        raise RecipeError("hp_trials tells trials apart by their batch size: leave auto_find_batch_size out.")
    if isinstance(args.resume, str):
        raise RecipeError("hp_trials finds its own study: give --resume_from_checkpoint true, not a folder.")
