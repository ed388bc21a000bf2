"""Checks of a recipe that every system shares; they run before any data is read."""

from typing import TYPE_CHECKING

from hf_fer.metrics.extra import MetricError, load_metric, stem
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.recipe.search_space import check_search
from hf_fer.runtime.checkpoints import has_folds
from hf_fer.task.settings import lora_settings, num_folds, search_space
from hf_fer.task.trainer_fields import check_trainer_fields
from hf_fer.weights.starting_points import check_folder

if TYPE_CHECKING:
    from hf_fer.task.base import Task

CANNOT_CHECKPOINT = (
    "gradient_checkpointing: the layers of this {} do not support it; leave it out, and lower "
    "per_device_train_batch_size where memory is short."
)


def check_arguments(task: "Task", systems: list[str]) -> None:
    """
    Check the fields of a recipe against one another and against the system.

    Args:
        task: Task of the recipe.
        systems: Names of all systems.

    Raises:
        RecipeError: there is no data set, the system does not compute a metric, or fields conflict.
    """
    if not task.data_args.dataset:
        raise RecipeError("dataset is not set: give a folder, a manifest file, a Hub data set, or 'demo'.")
    start = task.model_args.model_name_or_path
    if start and not has_folds(start):
        check_folder(start, task.model_type, systems)
    check_training(task)
    if "fold" in task.given:
        check_folds(task)
    space = search_space(task)
    if task.training_args.hp_trials:
        check_search(task.training_args, task.data_args.fold, space)
    check_frozen_parts(task)


def check_training(task: "Task") -> None:
    """Raises `RecipeError` where training fields conflict with the system or with one another."""
    args = task.training_args
    check_trainer_fields(args)
    for name in args.extra_metrics or []:
        try:
            load_metric(name)
        except MetricError as error:
            raise RecipeError(f"extra_metrics: {error}.") from error
    chosen = (args.metric_for_best_model or "").removeprefix("eval_")
    if chosen and not chosen.startswith(tuple(stem(name) for name in args.extra_metrics or [])):
        check_choice("metric_for_best_model", chosen, (*task.metric_names, "loss"))
    if (args.gradient_checkpointing or args.activation_checkpointing) and not task.can_checkpoint():
        raise RecipeError(CANNOT_CHECKPOINT.format("model"))
    if args.do_train and args.save_top_k is not None and args.eval_strategy == "no":
        raise RecipeError("save_top_k needs evaluations to compare: set eval_strategy to steps or epoch.")
    if args.do_train and args.early_stopping_patience is not None and not args.load_best_model_at_end:
        raise RecipeError("early_stopping_patience needs load_best_model_at_end.")
    if args.label_smoothing_factor and task.own_loss:
        raise RecipeError(
            "label_smoothing_factor makes the Trainer replace the model's own loss, so that terms of it would be "
            f"lost; leave it out: {task.own_loss}."
        )


def check_folds(task: "Task") -> None:
    """Raises `RecipeError` where the protocol has no folds, or the recipe cannot train all folds in one run."""
    args, fold = task.training_args, task.data_args.fold
    if not num_folds(task):
        protocol = task.data_args.protocol or "the default protocol"
        raise RecipeError(f"fold {fold!r} needs a protocol that has folds; {protocol!r} has none.")
    if fold != "all":
        return
    if args.push_to_hub:
        raise RecipeError("fold 'all' trains a model per fold: leave push_to_hub out, and push the one you want.")
    if isinstance(args.resume, str):
        raise RecipeError("fold 'all' finds its own checkpoints: give --resume_from_checkpoint true, not a folder.")


def check_frozen_parts(task: "Task") -> None:
    """Raises `RecipeError` where `unfreeze` is invalid for the system, or does not go with `lora`."""
    if lora_settings(task) and task.model_args.unfreeze:
        raise RecipeError("lora and unfreeze do not go together: an adapted part stays frozen.")
    for part, epoch in task.model_args.unfreeze.items():
        if not task.unfreezable:
            raise RecipeError(f"unfreeze: {task.name()} has no parts that can start training later; use freeze.")
        check_choice("unfreeze part", part, task.unfreezable)
        if not isinstance(epoch, int | float) or epoch < 0:
            raise RecipeError(f"unfreeze: {part!r} needs the number of an epoch, got {epoch!r}.")


def settle_metric(task: "Task") -> None:
    """Set `metric_for_best_model` and `greater_is_better` where the recipe does not."""
    args = task.training_args
    if "metric_for_best_model" not in task.given:
        args.metric_for_best_model = task.recipe["metric_for_best_model"] = task.primary_metric
    if args.metric_for_best_model is not None and "greater_is_better" not in task.given:
        metric = args.metric_for_best_model.removeprefix("eval_")
        args.greater_is_better = metric not in ("loss", *task.lower_is_better)
