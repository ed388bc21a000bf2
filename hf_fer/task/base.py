"""What a system brings to the one training entry: the Task, and how it is found."""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from datasets import Dataset, DatasetDict
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback

from hf_fer import models
from hf_fer.adapters import LoraSettings, add_lora
from hf_fer.data.loading import LoadedData
from hf_fer.data.tables import TableFormat
from hf_fer.recipe.arguments import (
    DataArguments,
    ModelArguments,
    RecipeError,
    TrainingArguments,
    check_choice,
    check_rivals,
    object_fields,
    overlaid,
)
from hf_fer.recipe.search_space import TRAINING_FIELDS, Dimension, check_search, read_space
from hf_fer.reporting.sharing import MODEL_FILES, DataFacts
from hf_fer.runtime import output_folder
from hf_fer.runtime.checkpoints import has_folds
from hf_fer.weights.starting_points import check_folder

CANNOT_CHECKPOINT = (
    "gradient_checkpointing: the layers of this {} do not support it; leave it out, and lower "
    "per_device_train_batch_size where memory is short."
)


class Task(ABC):
    """
    One system: its arguments, data, model, metrics and report.

    A system is a folder `hf_fer/models/<name>/` whose module `train/task.py` holds one subclass.

    Args:
        model_args, data_args, training_args: The parsed recipe; instances of the classes below.
        recipe: The fields that are not at their default, for dry run and card.

    `given` has the names of the fields that were written down, at their default or not; `on_command_line` those that
    were given there.

    Attributes:
        metric_names: What `compute_metrics` gives; a recipe may choose the best checkpoint by any of them.
        primary_metric: The one it is chosen by unless the recipe says otherwise.
        lower_is_better: Those of them of which a lower value is better, error rates say; `loss` always is.
        hub_task: The Hub's name for the kind of task.
        own_loss: Of a model that computes its own loss: what a recipe does in place of `label_smoothing_factor`.
        searched_fields: Model fields that `build_model` reads, beside `config_overrides`, and a search may vary.
        unfreezable: Parts that `unfreeze` may name; their model has `freeze` and `unfreeze`.
        file_columns, text_columns: Columns of the data with what an example is made of: paths of files, or texts.
        target_column: The one with what is to be learnt of an example: its class, or its transcript.
        group_column: The one with the speaker, patient or source of an example, where the data has it.
        input_fields: Fields that may name files or folders to read; a stage runs again when these change.
        file_fields: Fields that name files of the data; of these only the file's name goes into a card.
        shareable: Names of the report's files that may be uploaded, as glob patterns: figures over many examples.
            A file that is not named stays on the machine, as must texts, names and pictures of single examples.
        pipeline_task: The registered pipeline that saved models carry and name in `config.json`, if any.
        lora_targets: Regular expression on the paths of the layers that LoRA adapts unless the recipe says otherwise.
        model_type: Of the models that the system can start from; `None` for those of other libraries.
    """

    model_arguments: ClassVar[type[ModelArguments]] = ModelArguments
    data_arguments: ClassVar[type[DataArguments]] = DataArguments
    metric_names: ClassVar[tuple[str, ...]]
    primary_metric: ClassVar[str]
    lower_is_better: ClassVar[tuple[str, ...]] = ()
    hub_task: ClassVar[str]
    own_loss: ClassVar[str | None] = None
    searched_fields: ClassVar[tuple[str, ...]] = ()
    unfreezable: ClassVar[tuple[str, ...]] = ()
    file_columns: ClassVar[tuple[str, ...]] = ()
    text_columns: ClassVar[tuple[str, ...]] = ()
    target_column: ClassVar[str] = "labels"
    group_column: ClassVar[str] = "group"
    input_fields: ClassVar[tuple[str, ...]] = ("dataset",)
    file_fields: ClassVar[tuple[str, ...]] = ()
    shareable: ClassVar[tuple[str, ...]] = ("metrics.json", "report.md", "history.csv", "curves.png")
    pipeline_task: ClassVar[str | None] = None
    lora_targets: ClassVar[str | None] = None
    model_type: ClassVar[str | None] = None

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
    def best_metric(cls, given: Callable[[str], Any]) -> str:
        """
        What the best checkpoint is chosen by where the recipe does not say.

        Args:
            given: A field's value in the recipe or on the command line, not yet checked, or `None`.
        """
        return cls.primary_metric

    def check_arguments(self) -> None:
        """
        Look for what the dataclasses cannot see one by one.

        Raises:
            RecipeError: no data, a metric that the task does not produce, or early stopping without evaluation.
        """
        args = self.training_args
        if not self.data_args.dataset:
            raise RecipeError("dataset is not set: give a folder, a manifest file, a Hub data set, or 'demo'.")
        start = self.model_args.model_name_or_path
        if start and not has_folds(start):
            check_folder(start, self.model_type, task_names())
        if args.metric_for_best_model is not None:
            check_choice(
                "metric_for_best_model",
                args.metric_for_best_model.removeprefix("eval_"),
                (*self.metric_names, "loss"),
            )
        if (args.gradient_checkpointing or args.activation_checkpointing) and not self.can_checkpoint():
            raise RecipeError(CANNOT_CHECKPOINT.format("model"))
        if "fold" in self.given:
            self.check_folds()
        space = self.search_space()
        if args.hp_trials:
            check_search(args, self.data_args.fold, space)
        if args.do_train and args.early_stopping_patience is not None and not args.load_best_model_at_end:
            raise RecipeError("early_stopping_patience needs load_best_model_at_end.")
        if args.label_smoothing_factor and self.own_loss:
            raise RecipeError(
                "label_smoothing_factor makes the Trainer compute a loss in place of the model's own, of which "
                f"parts would be lost; leave it out: {self.own_loss}."
            )
        if self.lora and self.model_args.unfreeze:
            raise RecipeError("lora and unfreeze do not go together: an adapted part stays frozen.")
        for part, epoch in self.model_args.unfreeze.items():
            if not self.unfreezable:
                raise RecipeError(f"unfreeze: {self.name()} has no parts that begin to train later; use freeze.")
            check_choice("unfreeze part", part, self.unfreezable)
            if not isinstance(epoch, int | float) or epoch < 0:
                raise RecipeError(f"unfreeze: {part!r} needs the number of an epoch, got {epoch!r}.")

    def settle_direction(self) -> None:
        """Say which end of the metric that chooses the checkpoint is better, where the recipe does not."""
        args = self.training_args
        if args.metric_for_best_model is not None and "greater_is_better" not in self.given:
            metric = args.metric_for_best_model.removeprefix("eval_")
            args.greater_is_better = metric not in ("loss", *self.lower_is_better)

    def check_folds(self) -> None:
        """Raises `RecipeError` where the protocol has no folds, or they cannot be trained one after the other."""
        args, fold = self.training_args, self.data_args.fold
        if not self.num_folds():
            protocol = self.data_args.protocol or "the one that is taken by default"
            raise RecipeError(f"fold {fold!r} needs a protocol that has folds; {protocol!r} has none.")
        if fold != "all":
            return
        if args.push_to_hub:
            raise RecipeError("fold 'all' makes a model per fold: leave push_to_hub out, and push the one you want.")
        if isinstance(args.resume, str):
            raise RecipeError(
                "fold 'all' finds its own checkpoints: give --resume_from_checkpoint true, not a folder."
            )

    def search_space(self) -> list[Dimension]:
        """What `hp_space` varies; raises `RecipeError` where it cannot be read."""
        check_rivals(self.training_args.hp_space)
        return read_space(
            self.training_args.hp_space, {*TRAINING_FIELDS, *self.searched_fields}, {"config_overrides", "lora"}
        )

    @property
    def pipeline_tag(self) -> str | None:
        """The stock pipeline that gives the model's own answers, for its card; `None` where there is none."""
        return self.hub_task

    def num_folds(self) -> int:
        """How many folds the recipe's protocol has; 0 if it has none."""
        return self.data_args.num_folds if self.data_args.protocol == "group_kfold" else 0

    def recipe_with(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The recipe with fields that stand above it, see `overlaid`."""
        arguments = (self.model_arguments, self.data_arguments, TrainingArguments)
        return overlaid(self.recipe, fields, object_fields(arguments))

    def check_settled(self, path: str, settled: dict[str, Any]) -> None:
        """
        Make sure that the recipe does not ask for what a checkpoint has otherwise; what it leaves out does not count.

        Args:
            path: The checkpoint.
            settled: Field -> what it was trained with.

        Raises:
            RecipeError: naming the field.
        """
        for name, value in settled.items():
            asked = getattr(self.data_args if hasattr(self.data_args, name) else self.model_args, name)
            if name in self.given and asked != value:
                raise RecipeError(
                    f"{name} {asked!r}: {path} was trained with {value!r}, which stays. Leave {name} out, or train a "
                    "new model without model_name_or_path."
                )

    @classmethod
    def name(cls) -> str:
        """The system's name, that of its folder."""
        return cls.__module__.split(".")[-3]

    def starting_points(self) -> list[str]:
        """Folders, files and Hub repositories that the model's weights come from; the recipe's checkpoint first."""
        start = self.model_args.model_name_or_path
        return [start] if start else []

    @classmethod
    def shared_patterns(cls) -> tuple[str, ...]:
        """Glob patterns, relative to a model's folder, of all that may be uploaded: model, code, card and figures."""
        return (*MODEL_FILES, f"*_{cls.name()}.py", *(f"report/{name}" for name in cls.shareable))

    @property
    def skipped_file(self) -> Path:
        """Where examples that had to be left out are listed: in the report, or beside one that is still in place."""
        folder = output_folder.NEW_REPORT if self.replaces_report else output_folder.REPORT
        return Path(self.training_args.output_dir, folder, output_folder.SKIPPED)

    @classmethod
    @abstractmethod
    def inspect(cls, path: str, form: TableFormat | None = None) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        """
        What `python -m hf_fer.data.check` shows of a folder or manifest.

        Args:
            path: Of it.
            form: How a table, or texts, are written.

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

    def fill_caches(  # noqa: B027
        self, data: LoadedData, new_model: Callable[[], PreTrainedModel], processor: Any
    ) -> None:
        """Compute once what every epoch would compute again, where the recipe asks for it; on all processes alike."""

    def cache_plan(self, data: LoadedData, model: PreTrainedModel, processor: Any) -> list[str]:
        """What `fill_caches` would need, for the dry run."""
        return []

    @property
    def lora(self) -> LoraSettings | None:
        """The recipe's LoRA settings; raises `RecipeError` where they cannot be."""
        fields = self.model_args.lora
        return LoraSettings.from_recipe(fields, self.lora_targets) if fields else None

    def adapted(self, model: PreTrainedModel) -> PreTrainedModel:
        """The model with adapters where the recipe has `lora` and trains."""
        return add_lora(model, self.lora) if self.lora and self.training_args.do_train else model

    @abstractmethod
    def with_transforms(self, splits: DatasetDict, processor: Any) -> DatasetDict:
        """The data with its on-the-fly transforms: augmented for training, plain for the rest."""

    @abstractmethod
    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Examples to a batch."""

    def before_gathering(self, processor: Any) -> Callable[[Any, Any], Any] | None:
        """What is kept of a batch's `(logits, labels)` until all of the split is scored; the logits if `None`."""
        return None

    @abstractmethod
    def full_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, Any]:
        """Everything that the predictions of one split say, `metric_names` among it; `labels` as in `LoadedData`."""

    def compute_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, float]:
        """Numbers logged at every evaluation; the keys are `metric_names`."""
        metrics = self.full_metrics(prediction, labels)
        return {name: metrics[name] for name in self.metric_names}

    def callbacks(self) -> list[TrainerCallback]:
        """The system's own callbacks, beside those of every run."""
        return []

    def memory_hints(self) -> list[str]:
        """Settings of the system to lower where memory runs out, most useful first, as `--name value (now value)`."""
        return []

    def can_checkpoint(self) -> bool:
        """Whether the model supports gradient checkpointing, as far as the recipe tells."""
        return True

    def evaluation_views(self, data: Dataset) -> dict[str, Dataset]:
        """Other looks at a split that the report scores with the same checkpoint, by name."""
        return {}

    def split_metrics(
        self, split: str, data: Dataset, prediction: EvalPrediction, labels: list[str]
    ) -> dict[str, Any]:
        """Everything the report says of a split, where that takes more than its predictions."""
        return self.full_metrics(prediction, labels)

    def detail_metrics(
        self, split: str, rows: Dataset, prediction: EvalPrediction, model: PreTrainedModel
    ) -> dict[str, Any]:
        """
        What the report says of a split beyond `split_metrics`; validation comes before test.

        Args:
            split: Its name.
            rows: Its rows as they were loaded, in the order of the predictions.
            prediction: Of the Trainer.
            model: What was evaluated.

        Returns:
            Figures by name; sentences under `remarks`.
        """
        return {}

    def write_artifacts(self, folder: Path, data: LoadedData, results: dict[str, dict[str, Any]]) -> dict[str, str]:
        """Write the system's own tables and plots into the report; returns file name -> caption."""
        return {}

    def data_facts(self, data: LoadedData) -> DataFacts:
        """What the card says of the data; somebody's own data has a licence and limits that only they know."""
        return DataFacts(license="apache-2.0") if self.data_args.dataset == "demo" else DataFacts()

    @abstractmethod
    def card_example(self, repo_id: str) -> str:
        """Python lines that load and use the model, for its card."""


def task_names() -> list[str]:
    """Names of all systems."""
    return sorted(module.name for module in pkgutil.iter_modules(models.__path__))
