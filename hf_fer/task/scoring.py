"""Input and output of a task's scoring: an evaluated split, and the report of it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel

from hf_fer.data.loading import DataError, LoadedData
from hf_fer.data.skipped import saved_path
from hf_fer.metrics.extra import MetricError, extra_figures
from hf_fer.metrics.scored import IDENTITY
from hf_fer.recipe.arguments import TrainingArguments


@dataclass(frozen=True)
class Table:
    """
    A table of the report, written as CSV.

    Args:
        frame: Rows of one split.
        caption: One sentence.
        every_split: Whether the file has the rows of every split, told apart by a column `split`, or only those of
            the last split.
    """

    frame: pd.DataFrame
    caption: str
    every_split: bool = True


@dataclass(frozen=True)
class Plot:
    """
    A picture or page of the report; if several splits have it, that of the last split is drawn.

    Args:
        draw: Writes the plot to a path, whose folder exists.
        caption: One sentence.
    """

    draw: Callable[[Path], Any]
    caption: str


@dataclass(kw_only=True)
class SplitReport:
    """
    The report of one split. Systems add fields with values that the report of the next split needs.

    Only the figures and the files that `Task.shareable` names may be uploaded.

    Args:
        figures: Name -> number, or nested dictionaries of numbers; they go into `metrics.json`.
        views: Name of a view of the split (other inputs for the same examples) -> its figures.
        remarks: Sentences that follow the figures.
        warnings: Sentences that precede the figures.
        tables, plots: File name, relative to the report's folder -> table or plot.
    """

    figures: dict[str, Any]
    views: dict[str, dict[str, float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    plots: dict[str, Plot] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Content of `metrics.json` for this split."""
        sentences = {"remarks": self.remarks, "warnings": self.warnings}
        return {**self.figures, **{name: said for name, said in sentences.items() if said}, **self.views}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """
    A model with its processor and data.

    Args:
        model: The model without wrappers of adapters or distributed training.
        processor: From `Task.build_processor`.
        data: From `Task.load_data`.
    """

    model: PreTrainedModel
    processor: Any
    data: LoadedData


@dataclass(frozen=True, kw_only=True)
class Evaluation(Trained):
    """
    A split with the model's predictions.

    Args:
        split: Name of the split; validation is scored before test.
        inputs: The split with the transforms of `Task.with_transforms`.
        prediction: The Trainer's predictions, reduced by `Task.preprocess_logits`.
        earlier: Name -> report of the splits that were scored before.
        look: Evaluates the model on other inputs, given `(name, data set)`, and returns `Task.metric_names` of them.
    """

    split: str
    inputs: Dataset
    prediction: EvalPrediction
    earlier: Mapping[str, SplitReport]
    look: Callable[[str, Dataset], dict[str, float]]

    @property
    def rows(self) -> Dataset:
        """The split without transforms, in the order of the data."""
        return self.data.splits[self.split]


def with_extra(
    figures: dict[str, Any], args: TrainingArguments, predictions: Iterable[Any], references: Iterable[Any]
) -> dict[str, Any]:
    """
    Add the figures of the recipe's `extra_metrics`.

    Args:
        figures: Figures of the system; they are not modified.
        args: Training arguments with `extra_metrics`.
        predictions, references: One of each per example that could be read: class indices, or texts.

    Raises:
        DataError: a metric cannot be computed from these, or has the name of a figure of the system.
    """
    try:
        extra = extra_figures(args.extra_metrics or (), predictions, references)
    except MetricError as error:
        raise DataError(f"{error}.") from error
    if taken := sorted(extra.keys() & figures.keys()):
        raise DataError(f"extra_metrics: this system computes {', '.join(taken)} already; leave it out.")
    return {**figures, **extra}


def write_files(folder: Path, reports: Mapping[str, SplitReport], data_folder: Path | None = None) -> dict[str, str]:
    """
    Write the tables and plots of all splits.

    Args:
        folder: Folder of the report.
        reports: Split -> its report, in order.
        data_folder: Folder of the data set; the tables name files relative to it.

    Returns:
        File name -> caption.
    """
    captions = {}
    for name in dict.fromkeys(name for report in reports.values() for name in report.tables):
        tables = {split: report.tables[name] for split, report in reports.items() if name in report.tables}
        last = list(tables.values())[-1]
        frame = last.frame
        if last.every_split:
            parts = [table.frame.assign(split=split) for split, table in tables.items()]
            frame = pd.concat(parts).pipe(lambda rows: rows[["split", *rows.columns.drop("split")]])
        named = {
            column: [saved_path(value, data_folder) if isinstance(value, str) else value for value in frame[column]]
            for column in IDENTITY
            if column in frame
        }
        frame = frame.assign(**named)
        frame.to_csv(folder / name, index=False, float_format="%.4f")
        captions[name] = last.caption
    plots = {name: plot for report in reports.values() for name, plot in report.plots.items()}
    for name, plot in plots.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        plot.draw(folder / name)
        captions[name] = plot.caption
    return captions
