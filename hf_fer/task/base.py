"""The contract of a system: the attributes that it declares and the hooks that a run calls."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
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
    """Caches of arrays that are computed once before training instead of in every epoch."""

    def plan(self, model: PreTrainedModel) -> list[str]:
        """Sentences for the dry run on what `fill` would compute and how much disk space it needs."""

    def fill(self, new_model: Callable[[], PreTrainedModel]) -> LoadedData:
        """Compute the missing arrays; every process calls this. Returns data that refers to the caches."""


class Task(ABC):
    """
    One system: its attributes and hooks.

    A system is a folder `hf_fer/models/<name>/` whose module `train/task.py` holds one subclass. Hooks get what they
    need as arguments and store nothing for one another, because a search, a cross-validation and an evaluation call
    them in different orders and for different models.

    Args:
        model_args, data_args, training_args: The parsed recipe; instances of the classes below.
        recipe: Field -> value of the fields that are not at their default, for dry run and card.

    `given` holds the names of the fields that the recipe or the command line sets, even to their default;
    `on_command_line` holds those that the command line sets.

    Attributes:
        metric_names: Names of the metrics of `compute_metrics`; a recipe may choose the checkpoint by any of them.
        primary_metric: Metric that chooses the checkpoint unless the recipe names another; the headline shows it.
        lower_is_better: Names of the metrics of which a lower value is better, such as error rates, beside `loss`.
        preprocess_logits: Reduces a batch's `(logits, labels)` to the predictions that are gathered over the split;
            `None` keeps the logits.
        hub_task: The Hub's name of the task.
        pipeline_tag: Stock pipeline that gives the model's own answers, for its card; `None` where there is none.
        pipeline_task: Registered pipeline that saved models bring along and name in `config.json`, if any.
        model_type: Model type of the checkpoints that the system starts from; `None` for those of other libraries.
        own_loss: For models that compute their own loss: the alternative to `label_smoothing_factor`, as a clause.
        searched_fields: Model fields beside `config_overrides` that `build_model` reads and a search may vary.
        unfreezable: Model parts that `unfreeze` may name; the model has methods `freeze` and `unfreeze`.
        lora_targets: Regular expression for the paths of the layers that LoRA adapts by default.
        fixed_folds: The system's own cross-validation protocols -> number of folds.
        file_columns, text_columns: Data columns that hold an example's inputs, as paths of files or as texts.
        target_column: Data column with the target of an example: its class or its transcript.
        group_column: Data column with the speaker, patient or source of an example, where the data has it.
        weight_fields: Model fields beside `model_name_or_path` that name weights to start from.
        input_fields: Fields that may name input files or folders; a stage runs again when these change.
        file_fields: Fields that name data files; only the file name of these fields goes into a card.
        foreign_data_fields: Data field -> value for scoring a model on a data set with partly different classes.
        shareable: Glob patterns of the report's files that may be uploaded: figures over many examples. All other
            files stay on the machine; texts, names and pictures of single examples must.
        widget_texts: Returns example texts for the Hub's widget, given the class names, as entries of its metadata.
        pool_folds: Computes figures from the concatenated `predictions.csv` of several folds, where that is valid.
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
    foreign_data_fields: ClassVar[dict[str, str]] = {}
    shareable: ClassVar[tuple[str, ...]] = ("metrics.json", "report.md", "history.csv", "curves.png")
    widget_texts: ClassVar[Callable[[Sequence[str]], list[dict[str, str]]] | None] = None
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
        self.replaces_report = False  # true while data and model load and an earlier report is still in place
        self.resumes = False  # true where training goes on with the weights of this run's own checkpoint

    @classmethod
    def name(cls) -> str:
        """Name of the system, which is that of its folder."""
        return cls.__module__.split(".")[-3]

    @classmethod
    @abstractmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        """
        Inspect a folder or manifest for `hf-fer check`.

        Args:
            path: Path of the folder or manifest.
            form: Encoding and delimiter of tables and texts.

        Returns:
            One row per file, with `path` and the columns to count by; and the unusable files as `{"path", "reason"}`.
        """

    def check_arguments(self) -> None:
        """Check fields of the recipe against one another; raises `RecipeError`."""
        checks.check_arguments(self, task_names())

    @abstractmethod
    def load_data(self) -> LoadedData:
        """
        Load paths, targets and metadata of every split.

        Whatever else later hooks need goes into `LoadedData.own`.

        Raises:
            DataError: the data cannot be used.
        """

    @abstractmethod
    def build_processor(self, data: LoadedData) -> Any:
        """The processor, tokenizer or feature extractor that is saved beside the model."""

    @abstractmethod
    def build_model(self, data: LoadedData, processor: Any) -> PreTrainedModel:
        """The model to train or evaluate, with the parts of the recipe's `freeze` frozen."""

    def caches(self, data: LoadedData, processor: Any) -> Caches | None:
        """The caches to fill before training, or `None` where the recipe asks for none."""
        return None

    @abstractmethod
    def with_transforms(self, data: LoadedData, processor: Any, clock: EpochClock) -> DatasetDict:
        """
        The splits with their on-the-fly transforms: with augmentation for training, without for the other splits.

        The training split may compose its own batches, as its attribute `batches`: see `hf_fer.runtime.own_batches`.

        Args:
            data: From `load_data`, with its caches filled.
            processor: From `build_processor`.
            clock: Current epoch, by which augmentation is seeded.
        """

    @abstractmethod
    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """The function that collates a list of examples into a batch."""

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction, trained: Trained) -> dict[str, float]:
        """Metrics, keyed by `metric_names`, that are logged at every evaluation and choose the checkpoint."""

    @abstractmethod
    def score(self, evaluation: Evaluation) -> SplitReport:
        """Score a split for the report, after training."""

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks of the system, in addition to those of every run."""
        return []

    def memory_hints(self) -> list[str]:
        """Fields to lower when memory runs out, the most effective first, as `--name value (now value)`."""
        return []

    def can_checkpoint(self) -> bool:
        """Whether the model that the recipe describes supports gradient checkpointing."""
        return True

    @abstractmethod
    def card_example(self, repo_id: str) -> str:
        """Python lines that load and use the model, for its card."""


def task_names() -> list[str]:
    """Names of all systems."""
    return sorted(module.name for module in pkgutil.iter_modules(models.__path__))
