"""`hf-fer pseudo-label`: confident answers to unlabelled inputs, as a table that a recipe trains on."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hf_fer.data.loading import write_json_atomically
from hf_fer.data.tables import is_table, read_table
from hf_fer.inference.command import read_options
from hf_fer.inference.inputs import Input, read_sources
from hf_fer.inference.jobs import Settings, fingerprint, input_files, predict_to_file
from hf_fer.inference.loading import FoundModel, find_model
from hf_fer.inference.outputs import check_apart
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.runtime.messages import one_message
from hf_fer.task.predictor import Predictor

WRITERS = {
    ".csv": lambda rows, path: rows.to_csv(path, index=False),
    ".parquet": lambda rows, path: rows.to_parquet(path, index=False),
    ".jsonl": lambda rows, path: rows.to_json(path, orient="records", lines=True, force_ascii=False),
}
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
ANSWERS = ("text", "label")
"""Columns of a prediction that hold its answer; a system has one of them."""


@dataclass(frozen=True)
class Labelled:
    """
    Inputs with their predictions.

    Args:
        inputs: The inputs, in order.
        rows: A prediction per input; see `hf_fer.predict`.
        extra: The other columns of an input's table row; empty for files.
        predictor: Predictor class of the model's system.
    """

    inputs: list[Input]
    rows: list[dict[str, Any]]
    extra: list[dict[str, Any]]
    predictor: type[Predictor]

    def outcome(self, row: dict[str, Any], min_confidence: float) -> str:
        """What becomes of a row: `kept`, or the reason why it is left out."""
        if row["error"] is not None:
            return "no answer"
        if not answer_of(row):
            return "empty answer"
        return "kept" if row["score"] >= min_confidence else "confidence too low"

    def table(self, min_confidence: float) -> pd.DataFrame:
        """The rows that are kept, with the columns that training reads, `confidence` and `split`."""
        kept = []
        for given, row, extra in zip(self.inputs, self.rows, self.extra, strict=True):
            if self.outcome(row, min_confidence) == "kept":
                target = {self.predictor.target_columns[0]: answer_of(row)}
                kept.append({**input_columns(given, self.predictor), **target, **extra})
                kept[-1] |= {"confidence": row["score"], "split": "train"}
        return pd.DataFrame(kept)

    def statistics(self, min_confidence: float, labels: list[str]) -> dict[str, Any]:
        """
        Figures of the selection.

        Returns:
            `inputs`, `outcomes` (number of rows by `outcome`), `min_confidence`, `confidence` (quantiles over the
            inputs that have an answer), `labels` (kept rows by class, for systems that have classes) and, where true
            answers are known, `all` and `kept`, the metrics of all rows and of those that are kept.
        """
        outcomes = [self.outcome(row, min_confidence) for row in self.rows]
        sure = [row["score"] for row in self.rows if row["error"] is None and row["score"] is not None]
        quantiles = dict(zip(map(str, QUANTILES), np.quantile(sure, QUANTILES).tolist(), strict=True)) if sure else {}
        found = {"inputs": len(self.rows), "outcomes": dict(Counter(outcomes)), "min_confidence": min_confidence}
        found["confidence"] = quantiles
        kept = [outcome == "kept" for outcome in outcomes]
        if any("label" in row for row in self.rows):
            named = (row["label"] for row, keep in zip(self.rows, kept, strict=True) if keep)
            found["labels"] = dict(sorted(Counter(named).items()))
        for name, chosen in (("all", [row["error"] is None for row in self.rows]), ("kept", kept)):
            pairs = [
                (row["target"], row)
                for row, keep in zip(self.rows, chosen, strict=True)
                if keep and row.get("target") is not None
            ]
            if pairs:
                found[name] = self.predictor.score([said for said, _ in pairs], [row for _, row in pairs], labels)
        return found


def answer_of(row: dict[str, Any]) -> str | None:
    """The text or class of a prediction."""
    return next((row[name] for name in ANSWERS if name in row), None)


def input_columns(given: Input, predictor: type[Predictor]) -> dict[str, str]:
    """The columns of an input in a table of training; paths are absolute."""
    columns = {kind: names[0] for kind, names in predictor.columns.items()}
    if isinstance(given.value, dict):
        values = {columns[kind]: value for kind, value in given.value.items()}
    else:
        values = {columns["path"] if "path" in columns else next(iter(columns.values())): given.value}
    return {name: str(value) if predictor.takes_texts else os.path.abspath(value) for name, value in values.items()}


def read_extra(source: str, count: int, settings: Settings, predictor: type[Predictor]) -> list[dict[str, Any]]:
    """For each input of a source, the columns of its table that are neither input nor answer nor split."""
    if not is_table(Path(source)):
        return [{}] * count
    table = read_table(Path(source), settings.form)
    usual = {name for names in predictor.columns.values() for name in names}
    known = {"split", "confidence", *usual, *predictor.target_columns}
    return table.drop(columns=[name for name in table if name.lower() in known]).to_dict("records")


def pseudo_label(settings: Settings, output: str, min_confidence: float) -> dict[str, Any]:
    """
    Predict inputs, and write those whose answer is confident as a table with the split `train`.

    The predictions stay beside the output, so that another threshold needs no second prediction.

    Args:
        settings: Model and inputs; its `output` is replaced.
        output: Table to write.
        min_confidence: Smallest confidence of an answer that is kept.

    Returns:
        See `Labelled.statistics`; also written to `<output>.statistics.json`.

    Raises:
        RecipeError, DataError: model, inputs or output cannot be used, or no answer is kept.
        RunError: a process ended; the same command continues.
    """
    target = Path(output)
    check_choice("the ending of --output", target.suffix.lower(), tuple(WRITERS))
    if not 0 <= min_confidence <= 1:
        raise RecipeError(f"--min_confidence must be in [0, 1], got {min_confidence:g}.")
    if target.exists() and not settings.overwrite:
        raise RecipeError(f"{target} exists already; give another --output, or --overwrite to replace it.")
    settings = replace(settings, output=str(target.with_suffix(".predictions.parquet")))
    model = find_model(settings.model, settings.backend)
    parts = [read_sources([source], model.predictor, settings.form) for source in settings.sources]
    inputs = [given for part in parts for given in part]
    check_apart(target, input_files(settings.sources, inputs, model.predictor))
    if model.predictor.takes_texts and any(isinstance(given.value, Path) for given in inputs):
        raise RecipeError("pseudo-label takes tables of texts, no single files: training reads tables.")
    predict_once(settings, model, inputs)
    extra = [
        columns
        for source, part in zip(settings.sources, parts, strict=True)
        for columns in read_extra(source, len(part), settings, model.predictor)
    ]
    found = Labelled(inputs, pq.read_table(settings.output).to_pylist(), extra, model.predictor)
    statistics = found.statistics(min_confidence, model.labels)
    rows = found.table(min_confidence)
    if rows.empty:
        raise RecipeError(
            f"no answer reaches --min_confidence {min_confidence:g}; quantiles are {statistics['confidence']}. The "
            f"predictions are in {settings.output}."
        )
    WRITERS[target.suffix.lower()](rows, target)
    write_json_atomically(target.with_suffix(".statistics.json"), statistics)
    return statistics


def predict_once(settings: Settings, model: FoundModel, inputs: Sequence[Input]) -> None:
    """Predict into a file, unless it already holds the predictions of this model for these inputs."""
    marker = Path(settings.output).with_suffix(".json")
    wanted = fingerprint(settings, model, inputs)
    known = Path(settings.output).exists() and marker.exists() and json.loads(marker.read_text(encoding="utf-8"))
    if known == wanted:
        return
    predict_to_file(settings)
    write_json_atomically(marker, wanted)


def main(options: Sequence[str], *, output: str, min_confidence: float, **settings: Any) -> int:
    """
    The command; returns the exit status.

    Args:
        options: Arguments of the pipeline's call, as `name=value`.
        output, min_confidence: See `pseudo_label`.
        settings: The other fields of `Settings`.
    """
    with one_message():
        try:
            job = Settings(**settings, output=output, options=read_options(options))
            found = pseudo_label(job, output, min_confidence)
        except KeyboardInterrupt:
            print("hf_fer: interrupted; finished shards are kept, the same command continues.", file=sys.stderr)
            sys.exit(130)
    print_statistics(found, output)
    return 0


def print_statistics(found: dict[str, Any], output: str) -> None:
    """Print what was kept and how confident the answers are."""
    outcomes = dict(found["outcomes"])
    kept = outcomes.pop("kept")
    print(f"{output}: {kept} of {found['inputs']} inputs with confidence of at least {found['min_confidence']:g}")
    for reason, count in outcomes.items():
        print(f"  left out, {reason}: {count}")
    quantiles = (f"{float(share):.0%} {value:.3f}" for share, value in found["confidence"].items())
    print(f"  quantiles of the confidence: {', '.join(quantiles)}")
    if "labels" in found:
        print("  kept by class: " + ", ".join(f"{name} {count}" for name, count in found["labels"].items()))
    for name in ("all", "kept"):
        if name in found:
            shown = {key: value for key, value in found[name].items() if isinstance(value, float)}
            print(f"  {name} with a true answer: " + ", ".join(f"{key} {value:.4f}" for key, value in shown.items()))
    print("Train on it with --more_datasets, or as a dataset of its own.")
