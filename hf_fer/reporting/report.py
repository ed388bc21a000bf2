"""The report of a run: metrics.json, report.md, tables and plots of what was measured."""

import itertools
import json
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from matplotlib.figure import Figure
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sklearn.metrics import ConfusionMatrixDisplay

from hf_fer.adapters import base_model
from hf_fer.data.loading import EXAMPLES

MIB = 2**20
ABBREVIATED = ("uar", "wer", "cer")
PACKAGES = ("hf_fer", "torch", "transformers", "accelerate", "datasets", "evaluate", "peft", "numpy", "av")


def environment() -> dict[str, Any]:
    """Python, packages and hardware of this process."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else str(accelerator or "none")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": psutil.cpu_count(),
        "memory_mib": psutil.virtual_memory().total // MIB,
        "accelerator": name,
        "packages": {package: metadata.version(package) for package in PACKAGES},
    }


def missing_extras() -> dict[str, list[str]]:
    """The packages of each optional extra that are not installed; developers' tools do not count."""
    about = metadata.metadata("hf_fer")
    requirements = [Requirement(line) for line in about.get_all("Requires-Dist", [])]
    installed = {canonicalize_name(package.name) for package in metadata.distributions()}
    missing = {
        extra: [
            requirement.name
            for requirement in requirements
            if requirement.marker
            and requirement.marker.evaluate({"extra": extra})
            and canonicalize_name(requirement.name) not in installed
        ]
        for extra in about.get_all("Provides-Extra", [])
        if extra != "dev"
    }
    return {extra: names for extra, names in missing.items() if names}


def environment_page() -> str:
    """Text of `hf-fer env`: one fact per line, the last one on the extras that are not installed."""
    facts = environment()
    facts |= {"packages": ", ".join(f"{name} {version}" for name, version in facts["packages"].items())}
    missing = ", ".join(f"{extra} ({', '.join(names)})" for extra, names in missing_extras().items())
    facts["extras not installed"] = missing or "none"
    return "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in facts.items())


def peak_memory() -> dict[str, float]:
    """
    Highest memory use so far, in MiB.

    Returns:
        `cpu_mib` of this process, `workers_mib` of the largest child process that has ended (a data loader worker),
        `gpu_mib` of tensors, and `gpu_reserved_mib` that the allocator holds, which other programs see as in use.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {
        "cpu_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB,
        "workers_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / MIB,
    }
    if torch.cuda.is_available():
        peaks["gpu_mib"] = torch.cuda.max_memory_allocated() / MIB
        peaks["gpu_reserved_mib"] = torch.cuda.max_memory_reserved() / MIB
    return {name: round(value, 1) for name, value in peaks.items()}


def parameter_table(model: torch.nn.Module) -> pd.DataFrame:
    """
    Count the trainable and frozen parameters of each submodule, and of the whole model.

    Returns:
        Columns `part`, `trainable` and `frozen`. Rows are the direct children; the base model (`base_model_prefix`)
        has one row per child and one for parameters of its own. The last row is the total.
    """
    rows, model = [], base_model(model)
    for name, child in model.named_children():
        inner = list(child.named_children()) if name == getattr(model, "base_model_prefix", None) else []
        own = [(f"{name} (own)", child, False)] if inner else []
        for label, module, recurse in [(f"{name}.{sub}", part, True) for sub, part in inner] + (
            own or [(name, child, True)]
        ):
            parameters = list(module.parameters(recurse=recurse))
            if parameters:
                rows.append((label, *_count(parameters)))
    rows.append(("total", *_count(list(model.parameters()))))
    return pd.DataFrame(rows, columns=["part", "trainable", "frozen"])


def _count(parameters: list[torch.nn.Parameter]) -> tuple[int, int]:
    trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in parameters) - trainable


def history_table(log_history: list[dict[str, Any]]) -> pd.DataFrame:
    """The Trainer's log as a table with one row per step, `epoch` and `step` first."""
    rows: dict[int, dict[str, Any]] = {}
    for entry in log_history:
        if "train_runtime" not in entry:
            rows.setdefault(entry["step"], {}).update(entry)
    table = pd.DataFrame([rows[step] for step in sorted(rows)])
    first = [column for column in ("epoch", "step") if column in table]
    return table[[*first, *(column for column in table if column not in first)]]


def plot_confusion_matrix(path: Path, matrix: np.ndarray, labels: list[str], *, percent: bool, split: str) -> None:
    """
    Draw a confusion matrix.

    Args:
        path: PNG to write.
        matrix: Counts `(classes, classes)`, rows are true classes.
        labels: Class names in index order.
        percent: Whether to show percentages of each row's sum instead of counts.
        split: Name of the split, for the title.
    """
    values = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1) if percent else matrix
    # Inches per class: room for a number in each cell, or, with more than 30 classes, for a label only.
    side = max(4.5, (0.72 if len(labels) <= 30 else 0.26) * len(labels) + 2)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    display = ConfusionMatrixDisplay(values, display_labels=labels)
    display.plot(ax=axes, cmap="Blues", include_values=len(labels) <= 30, values_format=".0f", xticks_rotation=45)
    axes.set_title(f"{split}, n = {int(matrix.sum())}" + (", % of true class" if percent else ", counts"))
    figure.savefig(path, dpi=130)


def plot_curves(path: Path, history: pd.DataFrame, metric_names: tuple[str, ...]) -> None:
    """
    Draw losses and validation metrics over epochs.

    Args:
        path: PNG to write.
        history: From `history_table`.
        metric_names: Metrics to draw; those that the history lacks are left out.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss_axes, metric_axes = figure.subplots(1, 2)
    for column, label in (("loss", "training"), ("eval_loss", "validation")):
        if column in history:
            points = history.dropna(subset=[column])
            loss_axes.plot(points["epoch"], points[column], marker=".", label=label)
    styles = itertools.cycle(["-", "--", "-.", ":"])  # metrics that coincide stay visible
    for name, style in zip(metric_names, styles, strict=False):
        if f"eval_{name}" in history:
            points = history.dropna(subset=[f"eval_{name}"])
            metric_axes.plot(points["epoch"], points[f"eval_{name}"], style, marker=".", label=name)
    loss_axes.set(xlabel="epoch", ylabel="loss", title="loss")
    metric_axes.set(xlabel="epoch", ylabel="score", title="validation")
    for axes in (loss_axes, metric_axes):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=130)


def flat_numbers(metrics: dict[str, Any]) -> dict[str, float | str]:
    """Numbers of one split by name: nested numbers as `outer.inner`, intervals as text."""
    numbers = {}
    for name, value in metrics.items():
        if isinstance(value, int | float):
            numbers[name] = value
        elif name.endswith("_ci95"):
            numbers[name] = f"{value[0]:.4f} to {value[1]:.4f}"
        elif isinstance(value, dict) and name != "bootstrap":
            numbers.update({f"{name}.{key}": item for key, item in value.items() if isinstance(item, int | float)})
    return numbers


def breakdown_table(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per split, metadata column and value, with `n`, `classes`, `accuracy` and `uar`."""
    rows = [
        {"split": split, "column": column, "value": value, **scores}
        for split, metrics in results.items()
        for column, values in metrics.get("breakdown", {}).items()
        for value, scores in values.items()
    ]
    return pd.DataFrame(rows)


def remarks(results: dict[str, dict[str, Any]], kind: str = "remarks") -> list[str]:
    """
    Sentences about the figures, each once, prefixed by the splits that it is about.

    Args:
        results: Split -> metrics.
        kind: `remarks`, which follow the figures, or `warnings`, which precede them.
    """
    about: dict[str, list[str]] = {}
    for split, metrics in results.items():
        for remark in metrics.get(kind, []):
            about.setdefault(remark, []).append(split)
    return [f"{' and '.join(splits).capitalize()}: {remark}" for remark, splits in about.items()]


def cell(value: Any) -> str:
    """A table's value as text: floats with four decimals, integers with commas between thousands."""
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def markdown_table(table: pd.DataFrame) -> str:
    """A data frame as a Markdown table; floats with four decimals."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * len(table.columns)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def counts_table(counts: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Table of `LoadedData.counts`: a row per class and a column per split; without classes, a row per split."""
    if all(list(of_split) == [EXAMPLES] for of_split in counts.values()):
        return pd.DataFrame(counts).T.rename_axis("split").reset_index()
    return pd.DataFrame(counts).rename_axis("class").reset_index()


def results_table(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Table of the figures, one row per metric and one column per split."""
    table = pd.DataFrame({split: pd.Series(flat_numbers(metrics), dtype=object) for split, metrics in results.items()})
    return table.rename_axis("metric").reset_index()


def evaluated(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Split -> metrics of the splits that were scored; `metrics` is the content of `metrics.json`."""
    return {split: metrics[split] for split in ("validation", "test") if metrics[split].get("samples")}


def headline(results: dict[str, dict[str, Any]], *metrics: str) -> str | None:
    """
    The main score with its interval, on the test split or, without one, on validation; `None` without scores.

    Args:
        results: Split -> metrics.
        metrics: Names of metrics; the first that was computed is the main score. If it has no interval, the
            accuracy with its interval follows.
    """
    for split in ("test", "validation"):
        found = results.get(split, {})
        if metric := next((name for name in metrics if name in found), None):
            brought = [] if f"{metric}_ci95" in found or "accuracy_ci95" not in found else ["accuracy"]
            scores = ", ".join(_score(found, name) for name in [metric, *brought])
            examples = f", {found['samples']:,} examples" if "samples" in found else ""
            return f"{split.capitalize()} {scores}{examples}"
    return None


def _score(found: dict[str, Any], metric: str) -> str:
    name = metric.upper() if metric in ABBREVIATED else metric.replace("_", " ")
    low, high = found.get(f"{metric}_ci95", (None, None))
    interval = "" if low is None else f" (95% interval {low:.3f} to {high:.3f})"
    return f"{name} {found[metric]:.3f}{interval}"


def results_page(results: dict[str, dict[str, Any]], notes: list[str]) -> str:
    """Text that the console shows at the end: notes on the data (a leaky split, for example) and the results."""
    table = markdown_table(results_table(results)) if results else "Nothing was evaluated."
    return "\n\n".join([*(f"> {note}" for note in [*notes, *remarks(results, "warnings")]), table])


def report_markdown(metrics: dict[str, Any], captions: dict[str, str]) -> str:
    """The report in Markdown: notes, results, data, runtime, files."""
    results = evaluated(metrics)
    parts = [f"# {metrics['task']}, protocol {metrics['protocol']}"]
    parts += [f"> {note}" for note in [*metrics["data"]["notes"], *remarks(results, "warnings")]]
    if results:
        parts += ["## Results", markdown_table(results_table(results)), *remarks(results)]
        parts += ["## Breakdown", markdown_table(table)] if len(table := breakdown_table(results)) else []
    parts += [f"The {split} split has no scores: {reason}." for split, reason in metrics["data"]["absent"].items()]
    parts += [
        "## Data",
        markdown_table(counts_table(metrics["data"]["counts"])),
        f"Examples that were skipped: {metrics['data']['skipped']} (listed in skipped.jsonl).",
    ]
    runtime = pd.DataFrame(metrics["runtime"].items(), columns=["measure", "value"])
    parts += ["## Runtime", markdown_table(runtime)]
    parts += ["## Files", *(f"- `{name}`: {caption}" for name, caption in captions.items())]
    pictures = [name for name in captions if name.endswith(".png")]
    return "\n\n".join([*parts, *(f"![{captions[name]}]({name})" for name in pictures)]) + "\n"


def write_report(folder: Path, metrics: dict[str, Any], history: pd.DataFrame, captions: dict[str, str]) -> None:
    """
    Write `metrics.json`, `history.csv` and `report.md`; the plots and tables in `captions` are already there.

    Args:
        folder: The report's folder.
        metrics: Keys `task`, `protocol`, `validation`, `test`, `data`, `runtime`, `environment`.
        history: From `history_table`; may be empty.
        captions: File name -> caption.
    """
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if len(history):
        history.to_csv(folder / "history.csv", index=False)
        captions = {"history.csv": "Losses and metrics by step.", **captions}
    captions = {"metrics.json": "Every number of this page and more.", **captions}
    (folder / "report.md").write_text(report_markdown(metrics, captions), encoding="utf-8")
