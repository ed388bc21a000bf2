"""Settings that follow from a task's recipe: folds, search space, LoRA, starting points, files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from hf_fer.adapters import LoraSettings, add_lora
from hf_fer.data.skipped import SkippedFile, data_folder
from hf_fer.recipe.arguments import RecipeError, TrainingArguments, check_rivals, object_fields, overlaid
from hf_fer.recipe.search_space import TRAINING_FIELDS, Dimension, read_space
from hf_fer.reporting.sharing import MODEL_FILES
from hf_fer.runtime import output_folder

if TYPE_CHECKING:
    from hf_fer.task.base import Task


def num_folds(task: "Task") -> int:
    """Number of folds of the recipe's protocol; 0 if it has none."""
    return {"group_kfold": task.data_args.num_folds, **task.fixed_folds}.get(task.data_args.protocol, 0)


def protocol_name(task: "Task", protocol: str) -> str:
    """Name of the protocol, with the fold where it has folds."""
    return f"{protocol}, fold {task.data_args.fold}" if num_folds(task) else protocol


def search_space(task: "Task") -> list[Dimension]:
    """Dimensions of the recipe's `hp_space`; raises `RecipeError` where they are invalid."""
    space = task.training_args.hp_space
    check_rivals(space)
    return read_space(space, {*TRAINING_FIELDS, *task.searched_fields}, {"config_overrides", "lora"})


def recipe_with(task: "Task", fields: dict[str, Any]) -> dict[str, Any]:
    """The recipe with other fields overlaid; see `overlaid`."""
    return overlaid(task.recipe, fields, object_fields((task.model_arguments, task.data_arguments, TrainingArguments)))


def check_settled(task: "Task", path: str, settled: dict[str, Any]) -> None:
    """
    Check that the fields which the recipe sets do not contradict a checkpoint.

    Args:
        task: Task of the recipe.
        path: Path of the checkpoint.
        settled: Field -> value that the checkpoint was trained with.

    Raises:
        RecipeError: a field of the recipe has another value.
    """
    for name, value in settled.items():
        asked = getattr(task.data_args if hasattr(task.data_args, name) else task.model_args, name)
        if name in task.given and asked != value:
            raise RecipeError(
                f"{name} {asked!r}: {path} was trained with {value!r}, which cannot change. Leave {name} out, or "
                "train a new model without model_name_or_path."
            )


def starting_points(task: "Task") -> list[str]:
    """Folders, files and Hub repositories that weights are loaded from, `model_name_or_path` first."""
    found = [getattr(task.model_args, name) for name in ("model_name_or_path", *task.weight_fields)]
    return [path for path in found if path]


def lora_settings(task: "Task") -> LoraSettings | None:
    """The recipe's LoRA settings, or `None`; raises `RecipeError` where they are invalid."""
    fields = task.model_args.lora
    return LoraSettings.from_recipe(fields, task.lora_targets) if fields else None


def adapted(task: "Task", model: PreTrainedModel) -> PreTrainedModel:
    """The model, with LoRA adapters added if the recipe has `lora` and trains."""
    settings = lora_settings(task)
    return add_lora(model, settings) if settings and task.training_args.do_train else model


def report_folder(task: "Task") -> Path:
    """Folder that the report is written to; while the report of an earlier run is in place, a new one."""
    folder = output_folder.NEW_REPORT if task.replaces_report else output_folder.REPORT
    return Path(task.training_args.output_dir, folder)


def skipped_file(task: "Task") -> SkippedFile:
    """The list of skipped examples in the report's folder."""
    return SkippedFile(report_folder(task) / output_folder.SKIPPED, data_folder(task.data_args.dataset))


def shared_patterns(task: "Task | type[Task]") -> tuple[str, ...]:
    """Glob patterns, relative to a model's folder, of the files that may be uploaded: model, code, card, figures."""
    return (*MODEL_FILES, f"*_{task.name()}.py", *(f"report/{name}" for name in task.shareable))
