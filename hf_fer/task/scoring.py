"""What a task is asked to score, and what it answers."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel

from hf_fer.data.loading import DataError, LoadedData
from hf_fer.metrics.extra import MetricError, extra_figures
from hf_fer.recipe.arguments import TrainingArguments


@dataclass(frozen=True)
class Table:
    """
    A table of the report, written as CSV.

    Args:
        frame: Its rows for one split.
        caption: One sentence.
        every_split: Whether the file holds the rows of every split, below a column `split`; else only the last one's.
    """

    frame: pd.DataFrame
    caption: str
    every_split: bool = True


@dataclass(frozen=True)
class Plot:
    """
    A picture or page of the report; of several splits that have one, the last one's is drawn.

    Args:
        draw: Writes it to a path, whose folder exists.
        caption: One sentence.
    """

    draw: Callable[[Path], Any]
    caption: str


@dataclass(kw_only=True)
class SplitReport:
    """
    Everything that a run says of one split. Systems add fields for what the report of the next split builds on.

    Nothing of it is uploaded but the figures, and the files that `Task.shareable` names.

    Args:
        figures: Numbers by name, and tables of numbers as nested dictionaries; they go into `metrics.json`.
        views: The same of other looks at the split, by the name of the look.
        remarks: Sentences that follow the figures.
        warnings: Sentences that stand before them.
        tables, plots: By file name, relative to the report's folder.
    """

    figures: dict[str, Any]
    views: dict[str, dict[str, float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)
    plots: dict[str, Plot] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """What `metrics.json` says of the split."""
        sentences = {"remarks": self.remarks, "warnings": self.warnings}
        return {**self.figures, **{name: said for name, said in sentences.items() if said}, **self.views}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """
    A model with what it was built for.

    Args:
        model: Without a wrapper of adapters or processes.
        processor: As `Task.build_processor` made it.
        data: As `Task.load_data` gave it.
    """

    model: PreTrainedModel
    processor: Any
    data: LoadedData


@dataclass(frozen=True, kw_only=True)
class Evaluation(Trained):
    """
    A split that the model has answered.

    Args:
        split: Its name; validation comes before test.
        inputs: What the model was given, as `Task.with_transforms` made it.
        prediction: Of the Trainer; logits as `Task.preprocess_logits` left them.
        earlier: Reports of the splits before it.
        look: Evaluates other inputs, `(name, data set)`, and returns `Task.metric_names` of them.
    """

    split: str
    inputs: Dataset
    prediction: EvalPrediction
    earlier: Mapping[str, SplitReport]
    look: Callable[[str, Dataset], dict[str, float]]

    @property
    def rows(self) -> Dataset:
        """The split as it was loaded, in the order of the data."""
        return self.data.splits[self.split]


def with_extra(
    figures: dict[str, Any], args: TrainingArguments, predictions: Iterable[Any], references: Iterable[Any]
) -> dict[str, Any]:
    """
    Figures with those of the recipe's `extra_metrics`.

    Args:
        figures: Of the system.
        args: Of the recipe.
        predictions, references: One of each per example that could be read; class indices, or texts.

    Raises:
        DataError: a metric cannot be computed of these, or has the name of a figure of the system.
    """
    try:
        extra = extra_figures(args.extra_metrics or (), predictions, references)
    except MetricError as error:
        raise DataError(f"{error}.") from error
    if taken := sorted(extra.keys() & figures.keys()):
        raise DataError(f"extra_metrics: this system computes {', '.join(taken)} already; leave it out.")
    return {**figures, **extra}


def write_files(folder: Path, reports: Mapping[str, SplitReport]) -> dict[str, str]:
    """
    Write the tables and plots of all splits.

    Args:
        folder: Of the report.
        reports: By split, the last one last.

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
        frame.to_csv(folder / name, index=False, float_format="%.4f")
        captions[name] = last.caption
    plots = {name: plot for report in reports.values() for name, plot in report.plots.items()}
    for name, plot in plots.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        plot.draw(folder / name)
        captions[name] = plot.caption
    return captions
