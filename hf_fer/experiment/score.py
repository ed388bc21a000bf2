"""After training: score the splits, write report and card, push."""

import logging
import shlex
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import Trainer

from hf_fer.adapters import base_model
from hf_fer.data.loading import LoadedData
from hf_fer.data.skipped import data_folder
from hf_fer.experiment.model_card import write_card
from hf_fer.reporting import html as report_html
from hf_fer.reporting import report
from hf_fer.reporting.sharing import add_pipeline, upload
from hf_fer.runtime.failures import RunError
from hf_fer.runtime.trackers import emissions, log_report
from hf_fer.task.base import Task
from hf_fer.task.scoring import Evaluation, SplitReport, write_files
from hf_fer.task.settings import report_folder, shared_patterns, skipped_file

logger = logging.getLogger(__name__)


def evaluate(
    trainer: Trainer, task: Task, data: LoadedData, splits: DatasetDict, processor: Any
) -> dict[str, SplitReport]:
    """Split -> report of the splits that the recipe evaluates; validation is scored before test."""
    wanted = {"validation": task.training_args.do_eval, "test": task.training_args.do_predict}
    reports: dict[str, SplitReport] = {}

    def look(name: str, inputs: Dataset) -> dict[str, float]:
        found = trainer.predict(inputs, metric_key_prefix=name).metrics
        return {metric: found[f"{name}_{metric}"] for metric in task.metric_names if f"{name}_{metric}" in found}

    for split in (name for name, asked in wanted.items() if asked and name in splits):
        prediction = trainer.predict(splits[split], metric_key_prefix=split)
        evaluation = Evaluation(
            model=base_model(trainer.model),
            processor=processor,
            data=data,
            split=split,
            inputs=splits[split],
            prediction=prediction,
            earlier=dict(reports),
            look=look,
        )
        report = task.score(evaluation)
        report.figures["loss"] = prediction.metrics[f"{split}_loss"]
        report.figures.setdefault("samples", len(splits[split]))
        reports[split] = report
    return reports


def all_metrics(
    task: Task, data: LoadedData, results: dict[str, Any], runtime: dict[str, Any], *, apart: bool
) -> dict[str, Any]:
    """The content of `metrics.json`; `apart` as in `provenance.Provenance`."""
    splits = {
        split: results.get(split, {"absent": data.absent.get(split, "not asked for")})
        for split in ("validation", "test")
    }
    return {
        "task": task.name(),
        "protocol": data.protocol,
        **splits,
        "data": {
            "dataset": Path(task.data_args.dataset).name,
            "counts": data.counts(),
            "skipped": len(skipped_file(task).read()),
            "notes": data.notes,
            "absent": data.absent,
            "test_groups_unseen": apart,
        },
        "runtime": {**runtime, **report.peak_memory()},
        "environment": report.environment(),
    }


def finish(
    trainer: Trainer,
    task: Task,
    data: LoadedData,
    reports: dict[str, SplitReport],
    runtime: dict[str, Any],
    *,
    apart: bool,
) -> None:
    """Write report and model card, and push the model if the recipe says so."""
    args, folder = task.training_args, report_folder(task)
    folder.mkdir(parents=True, exist_ok=True)
    skipped_file(task).path.touch()
    results = contents(reports)
    metrics = all_metrics(task, data, results, {**runtime, **emissions(trainer)}, apart=apart)
    captions = write_files(folder, reports, data_folder(task.data_args.dataset))
    history = report.history_table(trainer.state.log_history)
    if args.do_train:
        report.plot_curves(folder / "curves.png", history, task.metric_names)
        captions["curves.png"] = "Losses, and validation metrics, by epoch."
    captions["report.html"] = "This report as one file with its pictures."
    report.write_report(folder, metrics, history, captions)
    report_html.write_html(folder, metrics, headline(task, results), captions)
    if args.do_train:
        log_report(trainer, scores_to_log(results), folder, task.shareable)
    repo_id = trainer.hub_model_id if args.push_to_hub else Path(args.output_dir).name
    if args.do_train:
        base_model(trainer.model).config.save_pretrained(args.output_dir)  # scoring may have calibrated the model
    if task.pipeline_task and args.do_train:
        add_pipeline(args.output_dir, task.pipeline_task)
    write_card(Path(args.output_dir), task, data, metrics, repo_id, captions)
    if args.push_to_hub:
        push(task, repo_id)


def push(task: Task, repo_id: str) -> None:
    """
    Upload the files that may leave the machine.

    Raises:
        RunError: the upload failed; the message has the command to upload later.
    """
    folder, token = task.training_args.output_dir, task.training_args.hub_token
    try:
        upload(folder, repo_id, token, shared_patterns(task), "Model, processor, card and report")
    except Exception as error:  # raised by the Hub client, the HTTP client or the disk
        later = shlex.join(["hf-fer", "push", str(folder), repo_id])
        raise RunError(
            f"The model is in {folder}, but it was not uploaded ({' '.join(str(error).split())}). "
            f"Upload it later: {later}"
        ) from error
    logger.warning("Pushed to %s.", repo_id)


def contents(reports: dict[str, SplitReport]) -> dict[str, dict[str, Any]]:
    """Split -> its content of `metrics.json`."""
    return {split: report.content() for split, report in reports.items()}


def scores_to_log(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The numbers of each split as `split/name`; trackers group them by the prefix."""
    return {
        f"{split}/{name}": value
        for split, metrics in results.items()
        for name, value in report.flat_numbers(metrics).items()
        if isinstance(value, int | float)
    }


def headline(task: Task, results: dict[str, dict[str, Any]]) -> str | None:
    """The main score: the primary metric or, where a stage lacks it, the metric that chose the checkpoint."""
    chosen = (task.training_args.metric_for_best_model or "").removeprefix("eval_")
    return report.headline(results, task.primary_metric, chosen)


def closing_lines(task: Task, results: dict[str, dict[str, Any]]) -> str:
    """Lines that end a run's output: headline, paths of report and model, and Python lines that use the model."""
    folder, first = Path(task.training_args.output_dir), headline(task, results)
    lines = [*([first] if first else []), f"Report: {report_folder(task) / 'report.html'}"]
    if not task.training_args.do_train:
        return "\n".join(lines)
    example = "\n".join(f"    {line}".rstrip() for line in task.card_example(folder.as_posix()).splitlines())
    return "\n".join([*lines, f"Model: {folder}", "Use it in Python:", "", example])
