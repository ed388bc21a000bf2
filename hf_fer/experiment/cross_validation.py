"""Cross-validation: runs the folds of a protocol one after the other, each as a separate run, and summarises them."""

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate.utils.memory import clear_device_cache

from hf_fer.data.loading import write_json_atomically
from hf_fer.experiment.model_card import shareable_recipe
from hf_fer.recipe.arguments import RecipeError, recipe_changes
from hf_fer.reporting.report import flat_numbers, markdown_table
from hf_fer.runtime import output_folder
from hf_fer.task.base import Task
from hf_fer.task.find import of_fold
from hf_fer.task.settings import num_folds

logger = logging.getLogger(__name__)

SPLITS = ("validation", "test")
RECIPE = "cross_validation.json"


def train_folds(task: Task, run: Callable[..., None]) -> None:
    """
    Run every fold into `output_dir/fold_<n>`, and write a summary of the finished ones to `output_dir/report`.

    Args:
        task: Task whose recipe has `fold: all`.
        run: Runs the task of one fold from start to end; its second argument is called once data and model have
            loaded.

    Raises:
        RecipeError: `output_dir` holds an earlier cross-validation that the recipe neither resumes nor overwrites, or
            the one to resume had another recipe.
    """
    args, folder = task.training_args, Path(task.training_args.output_dir)
    folds = [of_fold(task, fold) for fold in range(num_folds(task))]
    if args.dry_run:
        print(f"Fold 0 of {len(folds)}:\n")
        run(folds[0])
        return
    finished = prepare_folds(task)
    for number, fold in enumerate(folds):
        if number in finished:
            logger.warning("Fold %d is finished; %s is kept.", number, fold.training_args.output_dir)
            continue
        logger.warning("Fold %d of %d, into %s.", number, len(folds), fold.training_args.output_dir)
        run(fold, partial(replace_folds, task, number, finished))
        clear_device_cache(garbage_collection=True)
        finished.append(number)
        if args.should_save:
            write_summary(task, sorted(finished))
    if args.should_save:
        print((folder / "report" / "report.md").read_text(encoding="utf-8"))


def prepare_folds(task: Task) -> list[int]:
    """
    The numbers of the folds that are already finished; no file is changed.

    Raises:
        RecipeError: see `train_folds`.
    """
    args, folder = task.training_args, Path(task.training_args.output_dir)
    output_folder.check_ours(folder)
    if not args.do_train:
        return []
    summary = folder / "report" / "metrics.json"
    used = summary.is_file() or any(folder.glob("fold_*/checkpoint-*"))
    if args.resume:
        check_recipe(task)
        return sorted(map(int, json.loads(summary.read_text(encoding="utf-8"))["folds"])) if summary.is_file() else []
    if used and not args.overwrite_output_dir:
        raise RecipeError(
            f"{folder} holds an earlier cross-validation. Add --resume_from_checkpoint true to continue it, "
            "--overwrite_output_dir true to start over, or another --output_dir."
        )
    return []


def replace_folds(task: Task, number: int, finished: list[int]) -> None:
    """
    Remove an earlier cross-validation; called once data and model of the first fold have loaded.

    Args:
        task: Task of all folds.
        number: Number of the fold that is about to be trained; its own run replaces the content of its folder.
        finished: Folds that this cross-validation has finished; if there are any, nothing is removed.
    """
    args, folder = task.training_args, Path(task.training_args.output_dir)
    if args.should_save and not finished:
        if not args.resume:
            output_folder.clear(folder)
            for old in folder.glob("fold_[0-9]*"):
                if old.name != f"fold_{number}" and output_folder.is_ours(old):
                    output_folder.clear(old)
        output_folder.begin(folder)
        if args.do_train:  # written before the first fold, whose checkpoints belong to this recipe
            recipe = json.loads(json.dumps(shareable_recipe(task), default=str))
            write_json_atomically(folder / RECIPE, recipe, indent=2)
    args.distributed_state.wait_for_everyone()


def check_recipe(task: Task) -> None:
    """Raises `RecipeError` where existing folds were trained with another recipe."""
    path = Path(task.training_args.output_dir, RECIPE)
    now = shareable_recipe(task)
    changed = recipe_changes(json.loads(path.read_text(encoding="utf-8")), now) if path.is_file() else []
    if changed:
        raise RecipeError(
            f"{task.training_args.output_dir} holds folds of another recipe, different in {', '.join(changed)}. Only "
            "folds of one recipe are comparable: give that recipe, or replace resuming by --overwrite_output_dir true."
        )


def write_summary(task: Task, finished: list[int]) -> None:
    """Write `metrics.json`, `folds.csv` and `report.md` about the folds that are finished."""
    folder = Path(task.training_args.output_dir)
    runs = {fold: read_metrics(folder / f"fold_{fold}") for fold in finished}
    table = fold_table(runs)
    summary = {
        "task": task.name(),
        "protocol": task.data_args.protocol,
        "num_folds": num_folds(task),
        "folds": {
            str(fold): {"folder": f"fold_{fold}", **{split: scores(metrics, split) for split in SPLITS}}
            for fold, metrics in runs.items()
        },
        "unfinished": sorted(set(range(num_folds(task))) - set(finished)),
        **{name: by_split(table, name) for name in ("mean", "std")},
        "pooled_test": pooled_test(task, [folder / f"fold_{fold}" for fold in finished]),
        "test_groups_unseen": all(metrics["data"].get("test_groups_unseen", False) for metrics in runs.values()),
        "notes": list(dict.fromkeys(note for metrics in runs.values() for note in metrics["data"]["notes"])),
        "recipe": shareable_recipe(task),
    }
    report = folder / "report"
    report.mkdir(parents=True, exist_ok=True)
    table.to_csv(report / "folds.csv", index=False, float_format="%.4f")
    (report / "report.md").write_text(summary_page(summary, table), encoding="utf-8")
    # Written last: a fold counts as finished once it is in this file.
    write_json_atomically(report / "metrics.json", json.loads(json.dumps(summary, default=str)), indent=2)


def read_metrics(folder: Path) -> dict[str, Any]:
    """The `metrics.json` of a run."""
    return json.loads((folder / "report" / "metrics.json").read_text(encoding="utf-8"))


def scores(metrics: dict[str, Any], split: str) -> dict[str, float]:
    """The numbers of a split by name; empty where it was not evaluated."""
    return {name: value for name, value in flat_numbers(metrics[split]).items() if not isinstance(value, str)}


def fold_table(runs: dict[int, dict[str, Any]]) -> pd.DataFrame:
    """A row per split and metric with columns `fold_<n>`, `mean` and `std` (over folds, n - 1; empty for one fold)."""
    rows = []
    for split in SPLITS:
        values = pd.DataFrame({f"fold_{fold}": scores(metrics, split) for fold, metrics in runs.items()})
        values = values.drop(index="samples", errors="ignore")
        rows.append(values.assign(mean=values.mean(axis=1), std=values.std(axis=1, ddof=1)).assign(split=split))
    table = pd.concat(rows).rename_axis("metric").reset_index()
    return table[["split", *(name for name in table if name != "split")]]


def by_split(table: pd.DataFrame, column: str) -> dict[str, dict[str, float]]:
    """One column of the table as split -> metric -> value, without missing values."""
    known = table.dropna(subset=[column])
    return {
        split: dict(zip(part["metric"], part[column], strict=True))
        for split, part in known.groupby("split", sort=False)
    }


def pooled_test(task: Task, folders: list[Path]) -> dict[str, Any]:
    """
    Figures of the test examples of all folds together, each predicted by the model that has not seen its group.

    Empty where a run has no `predictions.csv` or the system has no `pool_folds`.
    """
    files = [folder / "report" / "predictions.csv" for folder in folders]
    if task.pool_folds is None or not all(file.is_file() for file in files):
        return {}
    rows = pd.concat([pd.read_csv(file, dtype={"group": str}) for file in files])
    rows = rows[rows["split"] == "test"]
    return {"samples": len(rows), **task.pool_folds(rows)} if len(rows) else {}


def summary_page(summary: dict[str, Any], table: pd.DataFrame) -> str:
    """The summary in Markdown."""
    folds = ", ".join(f"{fold} (`{facts['folder']}/`)" for fold, facts in summary["folds"].items())
    parts = [f"# {summary['task']}, protocol {summary['protocol']}, {summary['num_folds']} folds"]
    parts += [f"> {note}" for note in summary["notes"]]
    if summary["unfinished"]:
        missing = ", ".join(map(str, summary["unfinished"]))
        parts.append(f"> NOT FINISHED: folds {missing} are missing from every figure below.")
    unseen = (
        "No model was trained or chosen on the groups it is tested on"
        if summary["test_groups_unseen"]
        else "NOT ESTABLISHED: whether a model was trained or chosen on groups it is tested on, see the notes"
    )
    parts.append(f"Folds {folds}. {unseen}; `std` is the standard deviation over folds (n - 1).")
    for split in SPLITS:
        part = table[table["split"] == split].drop(columns="split")
        parts += [f"## {split.capitalize()}", markdown_table(part)] if len(part) else []
    if summary["pooled_test"]:
        pooled = pd.DataFrame(flat_numbers(summary["pooled_test"]).items(), columns=["metric", "value"])
        parts += ["## Test examples of all folds together", markdown_table(pooled), *summary["pooled_test"]["remarks"]]
    return "\n\n".join(parts) + "\n"
