"""After training: score the splits, write report and card, push."""

import logging
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import Trainer

from hf_fer.adapters import base_model
from hf_fer.data.loading import LoadedData, read_skipped
from hf_fer.experiment.model_card import write_card
from hf_fer.reporting import html as report_html
from hf_fer.reporting import report
from hf_fer.reporting.sharing import add_pipeline, upload
from hf_fer.runtime.failures import RunError
from hf_fer.task.base import Task

logger = logging.getLogger(__name__)


def evaluate(trainer: Trainer, task: Task, data: LoadedData, splits: DatasetDict) -> dict[str, dict[str, Any]]:
    """Metrics of each split that was asked for, with those of its views nested by name."""
    wanted = {"validation": task.training_args.do_eval, "test": task.training_args.do_predict}
    results = {}
    for split in (name for name, asked in wanted.items() if asked and name in splits):
        prediction = trainer.predict(splits[split], metric_key_prefix=split)
        metrics = task.split_metrics(split, splits[split], prediction, data.labels)
        metrics |= task.detail_metrics(split, data.splits[split], prediction, base_model(trainer.model))
        results[split] = {**metrics, "loss": prediction.metrics[f"{split}_loss"], "samples": len(splits[split])}
        for view, dataset in task.evaluation_views(splits[split]).items():
            prediction = trainer.predict(dataset, metric_key_prefix=view)
            results[split][view] = {name: prediction.metrics[f"{view}_{name}"] for name in task.metric_names}
    return results


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
            "skipped": len(read_skipped(task.skipped_file)),
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
    results: dict[str, Any],
    runtime: dict[str, Any],
    *,
    apart: bool,
) -> None:
    """Write report and model card, and push all of it where the recipe says so."""
    args, folder = task.training_args, task.skipped_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    task.skipped_file.touch()
    metrics = all_metrics(task, data, results, runtime, apart=apart)
    captions = task.write_artifacts(folder, data, results)
    history = report.history_table(trainer.state.log_history)
    if args.do_train:
        report.plot_curves(folder / "curves.png", history, task.metric_names)
        captions["curves.png"] = "Losses, and validation metrics, by epoch."
    captions["report.html"] = "This report as one file with its pictures."
    report.write_report(folder, metrics, history, captions)
    report_html.write_html(folder, metrics, headline(task, results), captions)
    repo_id = trainer.hub_model_id if args.push_to_hub else Path(args.output_dir).name
    if task.pipeline_task and args.do_train:
        add_pipeline(args.output_dir, task.pipeline_task)  # after the artifacts, which write config.json again
    write_card(Path(args.output_dir), task, data, metrics, repo_id)
    if args.push_to_hub:
        push(task, repo_id)


def push(task: Task, repo_id: str) -> None:
    """Upload what may leave; raises `RunError`, which says how to do it later, where the Hub does not take it."""
    folder, token = task.training_args.output_dir, task.training_args.hub_token
    try:
        upload(folder, repo_id, token, task.shared_patterns(), "Model, processor, card and report")
    except Exception as error:  # of the Hub, of the HTTP client, or of the disk
        later = (
            f"from hf_fer.reporting.sharing import upload; from hf_fer.task.find import load_task; "
            f"upload({folder!r}, {repo_id!r}, "
            f"None, load_task({task.name()!r}).shared_patterns(), 'Model')"
        )
        raise RunError(
            f"The model is in {folder}, but it was not uploaded ({' '.join(str(error).split())}). Upload it later: "
            f'python -c "{later}"'
        ) from error
    logger.warning("Pushed to %s.", repo_id)


def headline(task: Task, results: dict[str, dict[str, Any]]) -> str | None:
    """The score to read first: the system's own, or the one that chose the checkpoint where a stage lacks it."""
    chosen = (task.training_args.metric_for_best_model or "").removeprefix("eval_")
    return report.headline(results, task.primary_metric, chosen)


def closing_lines(task: Task, results: dict[str, dict[str, Any]]) -> str:
    """The last words of a run: its headline, where report and model are, and the lines that use the model."""
    folder, first = Path(task.training_args.output_dir), headline(task, results)
    lines = [*([first] if first else []), f"Report: {task.skipped_file.parent / 'report.html'}"]
    if not task.training_args.do_train:
        return "\n".join(lines)
    example = "\n".join(f"    {line}".rstrip() for line in task.card_example(folder.as_posix()).splitlines())
    return "\n".join([*lines, f"Model: {folder}", "Use it in Python:", "", example])
