"""Base task of systems with one label per example, and the parts of a report on classes."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from transformers import EvalPrediction

from hf_fer.metrics import calibration as calibration_metrics
from hf_fer.metrics import classification, intervals
from hf_fer.metrics.scored import Scored
from hf_fer.recipe.arguments import DataArguments, RecipeError
from hf_fer.reporting import report
from hf_fer.reporting.confidence import Calibration, plot_risk_coverage
from hf_fer.task.base import Task
from hf_fer.task.scoring import Evaluation, Plot, SplitReport, Table, Trained, with_extra

CLASS_FILES = ("per_class.csv", "confusion_matrix_counts.png", "confusion_matrix_percent.png")
"""Files that `add_class_scores` adds to a report."""


@dataclass
class ClassificationDataArguments(DataArguments):
    """Data with one label per example: how its scores are broken down, and when the model abstains."""

    breakdown: list[str] | None = field(
        default=None,
        metadata={"help": "Metadata columns to break scores down by; a known data set has its own if unset."},
    )
    abstention_coverage: float = field(
        default=0.9, metadata={"help": "Fraction of validation that the abstention threshold answers."}
    )
    abstention_risk: float | None = field(
        default=None,
        metadata={"help": "Choose the threshold by this error rate of the answers on validation instead."},
    )

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.abstention_coverage <= 1:
            raise RecipeError(f"abstention_coverage must be in (0, 1], got {self.abstention_coverage}.")
        if self.abstention_risk is not None and not 0 <= self.abstention_risk < 1:
            raise RecipeError(f"abstention_risk must be in [0, 1), got {self.abstention_risk}.")


@dataclass(kw_only=True)
class ClassificationReport(SplitReport):
    """
    The report of one split, with the predictions and calibration that the next split's report needs.

    Args:
        scored: Predictions on the split.
        calibration: Temperature and abstention threshold; `None` for models without them.
    """

    scored: Scored
    calibration: Calibration | None = None


def pooled_scores(answers: pd.DataFrame) -> dict[str, Any]:
    """
    Score the test predictions of all folds together; each example is predicted by a model that has not seen its group.

    Args:
        answers: One row per example, with class names in `label` and `predicted` and, where the data has groups,
            `group`.
    """
    labels = sorted({*answers["label"], *answers["predicted"]})
    index = {name: number for number, name in enumerate(labels)}
    predicted, truth = (answers[column].map(index).to_numpy() for column in ("predicted", "label"))
    metrics = classification.classification_metrics(predicted, truth, labels)
    plain = {name: value for name, value in metrics.items() if np.isscalar(value)}
    return {**plain, **intervals.interval_metrics(predicted, truth, answers.get("group"))}


class ClassificationTask(Task):
    """
    A task with one label per example and logits `(batch, classes)`.

    After training, `temperature` and `abstention_threshold` are fitted on validation, if the model's configuration
    has these fields. The logits do not change; divided by the temperature they give calibrated probabilities.
    """

    data_arguments = ClassificationDataArguments
    metric_names = classification.NAMES
    primary_metric = "uar"
    shareable = (*Task.shareable, *CLASS_FILES, "breakdown.csv", "risk_coverage.csv", "risk_coverage.png")
    pool_folds = staticmethod(pooled_scores)

    def compute_metrics(self, prediction: EvalPrediction, trained: Trained) -> dict[str, float]:
        predicted = np.argmax(prediction.predictions, axis=-1)
        metrics = classification.classification_metrics(predicted, prediction.label_ids, trained.data.labels)
        logged, read = {name: metrics[name] for name in self.metric_names}, prediction.label_ids != -100
        return with_extra(logged, self.training_args, predicted[read], prediction.label_ids[read])

    def score(self, evaluation: Evaluation) -> ClassificationReport:
        """Score a split: metrics, intervals over groups, breakdown by metadata and, if it has one, calibration."""
        scored = Scored.of(evaluation.rows.to_pandas(), evaluation.prediction)
        labels = evaluation.data.labels
        found = report_of_classes(evaluation.split, scored, labels, scored.rows.get("group"))
        found.figures = with_extra(found.figures, self.training_args, scored.predicted, scored.labels)
        add_breakdown(found, labels, evaluation.data.factors)
        found.calibration = calibrated(self, scored, evaluation)
        if found.calibration is not None:
            add_calibration(found, evaluation)
        add_predictions(found, labels, found.calibration.temperature if found.calibration else 1.0)
        return found


def report_of_classes(split: str, scored: Scored, labels: list[str], groups: pd.Series | None) -> ClassificationReport:
    """Report of single-label predictions: metrics with intervals over `groups`, tables and plots of the classes."""
    figures = classification.classification_metrics(scored.predicted, scored.labels, labels)
    drawn = intervals.interval_metrics(scored.predicted, scored.labels, groups)
    remarks = drawn.pop("remarks")
    found = ClassificationReport(figures={**figures, **drawn}, remarks=remarks, scored=scored)
    add_class_scores(found, split, labels)
    return found


def add_class_scores(found: SplitReport, split: str, labels: list[str]) -> None:
    """Add the table of scores per class and two plots of the confusion matrix."""
    rows = [{"class": name, **scores} for name, scores in found.figures["per_class"].items()]
    found.tables["per_class.csv"] = Table(pd.DataFrame(rows), "Precision, recall, F1 and support by split and class.")
    matrix = np.array(found.figures["confusion_matrix"])
    for kind in ("counts", "percent"):
        drawn = {"matrix": matrix, "labels": labels, "percent": kind == "percent", "split": split}
        found.plots[f"confusion_matrix_{kind}.png"] = Plot(
            partial(report.plot_confusion_matrix, **drawn), f"Confusion matrix of the {split} split, {kind}."
        )


def add_breakdown(found: ClassificationReport, labels: list[str], factors: tuple[str, ...]) -> None:
    """Add scores by the values of the metadata columns `factors`, if there are any."""
    if not factors:
        return
    scored = found.scored
    found.figures["breakdown"] = {
        column: classification.breakdown(scored.predicted, scored.labels, scored.rows[column], labels)
        for column in factors
    }
    table = report.breakdown_table({"": found.figures}).drop(columns="split")
    found.tables["breakdown.csv"] = Table(table, f"Scores by {', '.join(factors)}.")


def calibrated(task: Task, scored: Scored, evaluation: Evaluation) -> Calibration | None:
    """
    Calibration of the model: fitted on the validation split of a training run, otherwise the stored one.

    A fitted calibration is written into the model's configuration. Returns `None` for a model without these fields.
    """
    config, trains, args = evaluation.model.config, task.training_args.do_train, task.data_args
    if not hasattr(config, "temperature"):
        return None
    if evaluation.split == "validation" and trains:
        fitted = Calibration.fit(scored, args.abstention_coverage, args.abstention_risk)
        fitted.put(config)
        return fitted
    earlier = evaluation.earlier.get("validation")
    return earlier.calibration if earlier else Calibration.stored(config, trains)


def add_calibration(found: ClassificationReport, evaluation: Evaluation) -> None:
    """Add figures, remark and risk-coverage curves; the plot includes the curves of the splits scored earlier."""
    found.figures |= found.calibration.metrics(found.scored)
    found.remarks.append(found.calibration.remark)
    reports = {**evaluation.earlier, evaluation.split: found}
    curves = {
        split: calibration_metrics.risk_coverage(
            part.scored.confidence(found.calibration.temperature), part.scored.correct
        )
        for split, part in reports.items()
    }
    found.tables["risk_coverage.csv"] = Table(
        curves[evaluation.split][["coverage", "risk", "threshold"]],
        "Error rate of the k most confident answers, for every k.",
    )
    found.plots["risk_coverage.png"] = Plot(
        partial(plot_risk_coverage, curves=curves),
        "Risk-coverage curve: the error rate when only the most confident answers are given.",
    )


def add_predictions(found: ClassificationReport, labels: list[str], temperature: float) -> None:
    """Add the table with the prediction for every example."""
    found.tables["predictions.csv"] = Table(
        found.scored.table(labels, temperature),
        "The prediction for every example, with its confidence at the stored temperature.",
    )
