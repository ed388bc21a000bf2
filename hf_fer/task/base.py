"""The contract of a system: what it declares, and the hooks through which a run is made of it."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import pandas as pd
from datasets import DatasetDict
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback

from hf_fer import models
from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import LoadedData
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import DataArguments, ModelArguments, TrainingArguments
from hf_fer.task import checks
from hf_fer.task.scoring import Evaluation, SplitReport, Trained


class Caches(Protocol):
    """What every epoch would compute again, and is computed once instead."""

    def plan(self, model: PreTrainedModel) -> list[str]:
        """What `fill` would need, for the dry run."""

    def fill(self, new_model: Callable[[], PreTrainedModel]) -> LoadedData:
        """Compute what is missing, in all processes alike; returns the data, which refers to the caches."""


class Task(ABC):
    """
    One system: what it declares, and its hooks.

    A system is a folder `hf_fer/models/<name>/` whose module `train/task.py` holds one subclass. A hook gets what it
    needs as arguments, and no hook keeps anything for another: a search, the folds of a cross-validation and an
    evaluation call them in other orders and for other models.

    Args:
        model_args, data_args, training_args: The parsed recipe; instances of the classes below.
        recipe: The fields that are not at their default, for dry run and card.

    `given` has the names of the fields that were written down, at their default or not; `on_command_line` those that
    were given there.

    Attributes:
        metric_names: What `compute_metrics` may give; a recipe may choose the best checkpoint by any of them.
        primary_metric: The one it is chosen by unless the recipe says otherwise, and that the headline names.
        lower_is_better: Those of them of which a lower value is better, error rates say; `loss` always is.
        preprocess_logits: What is kept of a batch's `(logits, labels)` until all of the split is scored; the logits
            if `None`.
        hub_task: The Hub's name for the kind of task.
        pipeline_tag: The stock pipeline that gives the model's own answers, for its card; `None` where there is none.
        pipeline_task: The registered pipeline that saved models carry and name in `config.json`, if any.
        model_type: Of the models that the system can start from; `None` for those of other libraries.
        own_loss: Of a model that computes its own loss: what a recipe does in place of `label_smoothing_factor`.
        searched_fields: Model fields that `build_model` reads, beside `config_overrides`, and a search may vary.
        unfreezable: Parts that `unfreeze` may name; their model has `freeze` and `unfreeze`.
        lora_targets: Regular expression on the paths of the layers that LoRA adapts unless the recipe says otherwise.
        fixed_folds: Protocols of the system's own that have folds, with their number.
        file_columns, text_columns: Columns of the data with what an example is made of: paths of files, or texts.
        target_column: The one with what is to be learnt of an example: its class, or its transcript.
        group_column: The one with the speaker, patient or source of an example, where the data has it.
        weight_fields: Model fields, beside `model_name_or_path`, that name weights to start from.
        input_fields: Fields that may name files or folders to read; a stage runs again when these change.
        file_fields: Fields that name files of the data; of these only the file's name goes into a card.
        shareable: Names of the report's files that may be uploaded, as glob patterns: figures over many examples.
            A file that is not named stays on the machine, as must texts, names and pictures of single examples.
        pool_folds: Figures of the rows of several folds' `predictions.csv` together, if that can be said.
    """

    model_arguments: ClassVar[type[ModelArguments]] = ModelArguments
    data_arguments: ClassVar[type[DataArguments]] = DataArguments
    metric_names: tuple[str, ...]
    primary_metric: str
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    preprocess_logits: ClassVar[Callable[[Any, Any], Any] | None] = None
    hub_task: ClassVar[str]
    pipeline_tag: str | None = None
    pipeline_task: ClassVar[str | None] = None
    model_type: ClassVar[str | None] = None
    own_loss: ClassVar[str | None] = None
    searched_fields: ClassVar[tuple[str, ...]] = ()
    unfreezable: ClassVar[tuple[str, ...]] = ()
    lora_targets: ClassVar[str | None] = None
    fixed_folds: ClassVar[dict[str, int]] = {}
    file_columns: ClassVar[tuple[str, ...]] = ()
    text_columns: ClassVar[tuple[str, ...]] = ()
    target_column: ClassVar[str] = "labels"
    group_column: ClassVar[str] = "group"
    weight_fields: tuple[str, ...] = ()
    input_fields: ClassVar[tuple[str, ...]] = ("dataset",)
    file_fields: ClassVar[tuple[str, ...]] = ()
    shareable: ClassVar[tuple[str, ...]] = ("metrics.json", "report.md", "history.csv", "curves.png")
    pool_folds: ClassVar[Callable[[pd.DataFrame], dict[str, Any]] | None] = None

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
        self.given: set[str] = set(self.recipe)
        self.on_command_line: set[str] = set()
        self.replaces_report = False  # while data and model load, and the earlier report is still there

    @classmethod
    def name(cls) -> str:
        """The system's name, that of its folder."""
        return cls.__module__.split(".")[-3]

    @classmethod
    @abstractmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        """
        What `hf-fer check` shows of a folder or manifest.

        Args:
            path: Of it.
            form: How a table, or texts, are written.

        Returns:
            One row per file, with `path` and the columns to count by; and the unusable ones as `{"path", "reason"}`.
        """

    def check_arguments(self) -> None:
        """Look for what the recipe's dataclasses cannot see one by one; raises `RecipeError`."""
        checks.check_arguments(self, task_names())

    @abstractmethod
    def load_data(self) -> LoadedData:
        """
        Paths, targets and metadata by split; raises `DataError` before anything is trained.

        What later hooks need of what was found goes into `LoadedData.own`.
        """

    @abstractmethod
    def build_processor(self, data: LoadedData) -> Any:
        """The processor, tokenizer or feature extractor that is saved beside the model."""

    @abstractmethod
    def build_model(self, data: LoadedData, processor: Any) -> PreTrainedModel:
        """The model to train or evaluate, with the recipe's parts frozen."""

    def caches(self, data: LoadedData, processor: Any) -> Caches | None:
        """What is computed once before training, where the recipe asks for it."""
        return None

    @abstractmethod
    def with_transforms(self, data: LoadedData, processor: Any, clock: EpochClock) -> DatasetDict:
        """
        The splits with their on-the-fly transforms: augmented for training, plain for the rest.

        Args:
            data: As loaded, with its caches filled.
            processor: As built.
            clock: Has the present epoch, for what is drawn anew in each.
        """

    @abstractmethod
    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Examples to a batch."""

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction, trained: Trained) -> dict[str, float]:
        """Numbers logged at every evaluation, which choose the checkpoint; the keys are of `metric_names`."""

    @abstractmethod
    def score(self, evaluation: Evaluation) -> SplitReport:
        """Everything that the report says of a split, once training is over."""

    def callbacks(self) -> list[TrainerCallback]:
        """The system's own callbacks, beside those of every run."""
        return []

    def memory_hints(self) -> list[str]:
        """Settings of the system to lower where memory runs out, most useful first, as `--name value (now value)`."""
        return []

    def can_checkpoint(self) -> bool:
        """Whether the model supports gradient checkpointing, as far as the recipe tells."""
        return True

    @abstractmethod
    def card_example(self, repo_id: str) -> str:
        """Python lines that load and use the model, for its card."""


def task_names() -> list[str]:
    """Names of all systems."""
    return sorted(module.name for module in pkgutil.iter_modules(models.__path__))
