"""The task of a system with one label per example."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel

from hf_fer.data.loading import LoadedData
from hf_fer.metrics import classification, intervals
from hf_fer.metrics.scored import Scored
from hf_fer.recipe.arguments import ClassificationDataArguments
from hf_fer.reporting import report
from hf_fer.reporting.confidence import Calibration
from hf_fer.task.base import Task


class ClassificationTask(Task):
    """
    A task with one label per example and logits `(batch, classes)`.

    A model whose configuration has `temperature` and `abstention_threshold` gets both fitted on validation after
    training. Its logits stay as they are: whoever wants calibrated probabilities divides them by the temperature.

    Attributes:
        breakdown_columns: Metadata columns by whose values the report breaks the scores down.
        scored: Splits that were evaluated, by name.
        calibration: Temperature and threshold, once they are known.
        temperature: What log-probabilities are divided by to be confidences.
    """

    data_arguments = ClassificationDataArguments
    metric_names = classification.NAMES
    primary_metric = "uar"
    shareable = (*Task.shareable, *report.CLASS_FIGURES, "breakdown.csv", "risk_coverage.csv", "risk_coverage.png")
    breakdown_columns: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.scored: dict[str, Scored] = {}
        self.calibration: Calibration | None = None
        self.temperature = 1.0

    def full_metrics(self, prediction: EvalPrediction, labels: list[str]) -> dict[str, Any]:
        predicted = np.argmax(prediction.predictions, axis=-1)
        return classification.classification_metrics(predicted, prediction.label_ids, labels)

    def detail_metrics(
        self, split: str, rows: Dataset, prediction: EvalPrediction, model: PreTrainedModel
    ) -> dict[str, Any]:
        """Intervals over groups, scores by metadata, and, where the model has a temperature, its calibration."""
        scored = self.scored[split] = Scored.of(rows.to_pandas(), prediction)
        details = intervals.interval_metrics(scored.predicted, scored.labels, scored.rows.get("group"))
        if self.breakdown_columns:
            labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
            details["breakdown"] = {
                column: classification.breakdown(scored.predicted, scored.labels, scored.rows[column], labels)
                for column in self.breakdown_columns
            }
        if hasattr(model.config, "temperature"):
            self.calibration = self.calibration or Calibration.stored(model.config, self.training_args.do_train)
            if split == "validation" and self.training_args.do_train:
                args = self.data_args
                self.calibration = Calibration.fit(scored, args.abstention_coverage, args.abstention_risk)
                self.calibration.put(model.config)
            self.temperature = self.calibration.temperature
            details |= self.calibration.metrics(scored)
            details["remarks"] = [*details["remarks"], self.calibration.remark]
        return details

    def write_artifacts(self, folder: Path, data: LoadedData, results: dict[str, dict[str, Any]]) -> dict[str, str]:
        if not results:
            return {}
        captions = report.write_class_scores(folder, results, data.labels)
        if self.breakdown_columns:
            report.breakdown_table(results).to_csv(folder / "breakdown.csv", index=False, float_format="%.4f")
            captions["breakdown.csv"] = f"Scores by {', '.join(self.breakdown_columns)}."
        if self.scored:
            answers = {name: part.table(data.labels, self.temperature) for name, part in self.scored.items()}
            tables = [table.assign(split=name) for name, table in answers.items()]
            pd.concat(tables).to_csv(folder / "predictions.csv", index=False, float_format="%.4f")
            captions["predictions.csv"] = "The answer to every example, with its confidence at the stored temperature."
        if self.calibration is not None:
            captions |= self.calibration.write_curves(folder, self.scored)
            if self.training_args.do_train:
                self.calibration.save(self.training_args.output_dir)
        return captions
