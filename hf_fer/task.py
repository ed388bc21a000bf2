"""What a system brings to the one training entry: the Task, and how it is found."""

import importlib
import inspect
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback

from hf_fer import models, report
from hf_fer.arguments import (
    DataArguments,
    ModelArguments,
    RecipeError,
    TrainingArguments,
    check_choice,
    make_parser,
    parse,
    read_recipe,
)
from hf_fer.data.loading import LoadedData
from hf_fer.metrics import classification


class Task(ABC):
    """
    One system: its arguments, data, model, metrics and report.

    A system is a folder `hf_fer/models/<name>/` with a module `task_<name>.py` that holds one subclass.

    Args:
        model_args, data_args, training_args: The parsed recipe; instances of the classes below.
        recipe: The fields that are not at their default, for dry run and card.

    Attributes:
        metric_names: What `compute_metrics` gives; a recipe may choose the best checkpoint by any of them.
        primary_metric: The one it is chosen by unless the recipe says otherwise; higher is better.
        hub_task: The Hub's name for the kind of task.
    """

    model_arguments: ClassVar[type[ModelArguments]] = ModelArguments
    data_arguments: ClassVar[type[DataArguments]] = DataArguments
    metric_names: ClassVar[tuple[str, ...]]
    primary_metric: ClassVar[str]
    hub_task: ClassVar[str]

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        training_args: TrainingArguments,
        recipe: dict[str, Any] | None = None,
    ):
        self.model_args = model_args
        self.data_args = data_args
        self.training_args = training_args
        self.recipe = recipe or {}

    def check_arguments(self) -> None:
        """
        Look for what the dataclasses cannot see one by one.

        Raises:
            RecipeError: no data, a metric that the task does not produce, or early stopping without evaluation.
        """
        args = self.training_args
        if not self.data_args.dataset:
            raise RecipeError("dataset is not set: give a folder, a manifest file, a Hub data set, or 'demo'.")
        if args.metric_for_best_model is not None:
            check_choice(
                "metric_for_best_model",
                args.metric_for_best_model.removeprefix("eval_"),
                (*self.metric_names, "loss"),
            )
        if args.do_train and args.early_stopping_patience is not None and not args.load_best_model_at_end:
            raise RecipeError("early_stopping_patience needs load_best_model_at_end.")

    @classmethod
    def name(cls) -> str:
        """The system's name, that of its folder."""
        return cls.__module__.rpartition(".task_")[2]

    @property
    def skipped_file(self) -> Path:
        """Where examples that had to be left out are listed."""
        return Path(self.training_args.output_dir, "report", "skipped.jsonl")

    @classmethod
    @abstractmethod
    def inspect(cls, path: str) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        """
        What `python -m hf_fer.data.check` shows of a folder or manifest.

        Returns:
            One row per file, with `path` and the columns to count by; and the unusable ones as `{"path", "reason"}`.
        """

    @abstractmethod
    def load_data(self) -> LoadedData:
        """Paths, labels and metadata by split; raises `DataError` before anything is trained."""

    @abstractmethod
    def build_processor(self, data: LoadedData) -> Any:
        """The processor, tokenizer or feature extractor that is saved beside the model."""

    @abstractmethod
    def build_model(self, data: LoadedData, processor: Any) -> PreTrainedModel:
        """The model to train or evaluate, with the recipe's parts frozen."""

    @abstractmethod
    def with_transforms(self, splits: DatasetDict, processor: Any) -> DatasetDict:
        """The data with its on-the-fly transforms: augmented for training, plain for the rest."""

    @abstractmethod
    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Examples to a batch."""

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, float]:
        """Numbers logged at every evaluation; the keys are `metric_names`."""

    def callbacks(self) -> list[TrainerCallback]:
        """The system's own callbacks, beside those of every run."""
        return []

    def evaluation_views(self, data: Dataset) -> dict[str, Dataset]:
        """Other looks at a split that the report scores with the same checkpoint, by name."""
        return {}

    def full_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, Any]:
        """Everything the report says of one split."""
        return dict(self.compute_metrics(prediction, labels))

    def split_metrics(
        self, split: str, data: Dataset, prediction: EvalPrediction, labels: list[str]
    ) -> dict[str, Any]:
        """Everything the report says of a split, where that takes more than its predictions."""
        return self.full_metrics(prediction, labels)

    def write_artifacts(self, folder: Path, data: LoadedData, results: dict[str, dict[str, Any]]) -> dict[str, str]:
        """Write the system's own tables and plots into the report; returns file name -> caption."""
        return {}

    @abstractmethod
    def card_example(self, repo_id: str) -> str:
        """Python lines that load and use the model, for its card."""


class ClassificationTask(Task):
    """A task with one label per example and logits `(batch, classes)`."""

    metric_names = classification.NAMES
    primary_metric = "uar"

    def full_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, Any]:
        predicted = np.argmax(prediction.predictions, axis=-1)
        return classification.classification_metrics(predicted, prediction.label_ids, labels)

    def compute_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, float]:
        metrics = self.full_metrics(prediction, labels)
        return {name: metrics[name] for name in self.metric_names}

    def write_artifacts(self, folder: Path, data: LoadedData, results: dict[str, dict[str, Any]]) -> dict[str, str]:
        split = next((name for name in ("test", "validation") if name in results), None)
        if split is None:
            return {}
        report.write_per_class(folder / "per_class.csv", results)
        captions = {"per_class.csv": "Precision, recall, F1 and support by split and class."}
        matrix = np.array(results[split]["confusion_matrix"])
        for kind in ("counts", "percent"):
            name = f"confusion_matrix_{kind}.png"
            report.plot_confusion_matrix(folder / name, matrix, data.labels, percent=kind == "percent", split=split)
            captions[name] = f"Confusion matrix of the {split} split, {kind}."
        return captions


def task_names() -> list[str]:
    """Names of all systems."""
    return sorted(module.name for module in pkgutil.iter_modules(models.__path__))


def load_task(name: str) -> type[Task]:
    """
    The Task class of a system, found by convention: the one defined in `hf_fer.models.<name>.task_<name>`.

    Raises:
        RecipeError: there is no such system; the message has the nearest name.
    """
    check_choice("task", name, task_names())
    module = importlib.import_module(f"{models.__name__}.{name}.task_{name}")
    return next(
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Task) and member.__module__ == module.__name__
    )


def general_help() -> str:
    """What `run.py --help` prints: usage, the systems, and the fields that all of them share."""
    shared = make_parser((ModelArguments, DataArguments, TrainingArguments), {}).format_help()
    return (
        f"{shared}\nSystems: {', '.join(task_names())}. `run.py RECIPE.json --help` shows a system's own fields too."
    )


def parse_task(argv: list[str]) -> Task:
    """
    A command line, `RECIPE.json [--any_field value ...]` or fields alone, to the task it describes.

    Raises:
        RecipeError: anything that cannot be run as written.
    """
    recipe, source, rest = {}, "command line", argv
    if argv and not argv[0].startswith("-"):
        recipe, source, rest = read_recipe(argv[0]), argv[0], argv[1:]
    name = _flag(rest, "--task") or recipe.get("task")
    if name is None:
        raise RecipeError(f"{source}: no 'task'. Give a recipe first, or --task with one of {task_names()}.")
    task_class = load_task(name)
    arguments = (task_class.model_arguments, task_class.data_arguments, TrainingArguments)
    recipe = {"metric_for_best_model": task_class.primary_metric, **recipe}
    parsed, resolved = parse(arguments, recipe, source, rest)
    task = task_class(*parsed, recipe={**resolved, "task": name})
    task.check_arguments()
    return task


def _flag(argv: list[str], flag: str) -> str | None:
    for index, word in enumerate(argv):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag and index + 1 < len(argv):
            return argv[index + 1]
    return None
