"""Hyperparameter search with Optuna through `Trainer.hyperparameter_search`, in a study that can be resumed."""

import json
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from accelerate.utils import broadcast_object_list
from matplotlib.figure import Figure
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, set_seed
from transformers.trainer_utils import SaveStrategy

from hf_fer.data.loading import LoadedData
from hf_fer.experiment.model_card import shareable_recipe
from hf_fer.recipe.arguments import RecipeError, TrainingArguments, recipe_changes
from hf_fer.recipe.search_space import TRAINING_FIELDS, Dimension, recipe_fields
from hf_fer.reporting.report import markdown_table
from hf_fer.runtime.failures import RunError
from hf_fer.runtime.interruption import end_loader_workers
from hf_fer.runtime.nonfinite import NonFiniteGuard
from hf_fer.runtime.processes import in_processes
from hf_fer.task.base import Task
from hf_fer.task.find import with_fields
from hf_fer.task.settings import adapted, recipe_with, search_space

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

STUDY_NAME = "search"


def study_file(args: TrainingArguments) -> Path:
    """Path of the database of the Optuna study."""
    return Path(args.output_dir, "study.db")


def prepare_search(args: TrainingArguments) -> None:
    """
    Turn off saving, because the best trial is trained again by its recipe, and check for an earlier study.

    Raises:
        RecipeError: there is an earlier study that the recipe neither resumes nor overwrites.
    """
    args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
    if not study_file(args).is_file() or args.resume:
        return
    if not args.overwrite_output_dir:
        raise RecipeError(
            f"{study_file(args)} is an earlier search. Add --resume_from_checkpoint true to continue it, "
            "--overwrite_output_dir true to start over, or another --output_dir."
        )


def search(trainer: Trainer, task: Task, data: LoadedData, processor: Any) -> None:
    """
    Run trials until `hp_trials` of them are finished, and write the results.

    The objective is the best value of `metric_for_best_model` on validation during a trial. With one process, trials
    that are worse than half of the earlier ones at the same step are pruned (Optuna's `MedianPruner`), and a trial
    with too many consecutive non-finite steps fails. Non-finite steps are skipped as in any run. Failed trials are
    replaced; the search ends when every trial of a round fails.

    Args:
        trainer: Trainer with the data, callbacks and arguments of every trial.
        task: Task whose recipe has `hp_trials` and `hp_space`.
        data, processor: Data and processor that the models are built for.

    Raises:
        RecipeError: a model cannot be built with a setting, an earlier study had another recipe, or no trial could be
            trained to its end.
    """
    args = task.training_args
    check_settings(task, data, processor)
    study = open_study(task) if trainer.is_world_process_zero() else None
    guard = NonFiniteGuard(args.skip_grad_norm, args.max_skipped_steps)
    trainer.callback_handler.callbacks.insert(0, guard)
    before, remaining = None, trials_left(study, args)
    # Failed trials are replaced, until every trial of a round fails.
    while remaining > 0 and remaining != before:
        try:
            with guard.watching(trainer):
                optimize(trainer, task, data, processor, remaining)
        except ValueError as error:
            if study is None or finished(study):
                raise
            raise RecipeError(
                "No trial was completed: in each, memory ran out, too many consecutive steps were not finite, or the "
                "objective was not finite. Change hp_space."
            ) from error
        before, remaining = remaining, trials_left(study, args)
    if study:
        print(write_results(study, task, data))


def trials_left(study: "optuna.Study | None", args: TrainingArguments) -> int:
    """Number of trials still to finish, the same in all processes; only the first process has the study."""
    left = [args.hp_trials - len(finished(study)) if study else 0]
    broadcast_object_list(left)
    return left[0]


def optimize(trainer: Trainer, task: Task, data: LoadedData, processor: Any, num_trials: int) -> None:
    """Run trials: build the model of each, and set its training fields in the Trainer's arguments."""
    import optuna

    args = trainer.args

    def suggested(trial: "optuna.Trial") -> Task:
        return with_fields(task, **recipe_fields(task.recipe, suggest(task, trial)))

    def model_init(trial: "optuna.Trial") -> PreTrainedModel:
        model = build(suggested(trial), data, processor)
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = 0
        end_loader_workers(trainer)  # of the trial before
        # A separate run would set the seed again when it creates the Trainer.
        set_seed(args.seed)
        return in_processes(model, args)

    def space(trial: "optuna.Trial") -> dict[str, Any]:
        settings = suggested(trial).training_args
        for name in TRAINING_FIELDS:
            setattr(args, name, getattr(settings, name))
        return {}

    def objective(metrics: dict[str, float]) -> float:
        value, before = metrics[f"eval_{args.metric_for_best_model.removeprefix('eval_')}"], trainer.state.best_metric
        if before is None or not math.isfinite(before):
            return value
        return max(before, value) if args.greater_is_better else min(before, value)

    single = args.world_size == 1
    trainer.model_init = model_init
    options = {}
    if trainer.is_world_process_zero():
        study = load_study(args)
        options = {
            "study_name": STUDY_NAME,
            "storage": storage(args),
            "load_if_exists": True,
            # With the same seed, a resumed search would draw the same values again.
            "sampler": optuna.samplers.TPESampler(seed=args.seed + len(study.trials)),
            # If one process pruned a trial, the others would wait for it forever.
            "pruner": optuna.pruners.MedianPruner() if single else optuna.pruners.NopPruner(),
            "catch": (torch.OutOfMemoryError, RunError) if single else (),
        }
    trainer.hyperparameter_search(
        hp_space=space,
        compute_objective=objective,
        n_trials=num_trials,
        direction="maximize" if args.greater_is_better else "minimize",
        backend="optuna",
        hp_name=lambda trial: f"trial-{trial.number}",
        **options,
    )
    end_loader_workers(trainer)


def suggest(task: Task, trial: "optuna.Trial") -> dict[str, Any]:
    """Name of each dimension -> its value in a trial."""
    return {dimension.name: dimension.suggest(trial) for dimension in search_space(task)}


def build(settings: Task, data: LoadedData, processor: Any) -> PreTrainedModel:
    """Build the model of a trial's settings."""
    return adapted(settings, settings.build_model(data, processor))


def check_settings(task: Task, data: LoadedData, processor: Any) -> None:
    """Check that the ends of every dimension give a valid recipe with which a model can be built."""
    for dimension in search_space(task):
        for value in dimension.extremes():
            settings = with_fields(task, **recipe_fields(task.recipe, {dimension.name: value}))
            if dimension.name not in TRAINING_FIELDS:
                build(settings, data, processor)


def storage(args: TrainingArguments) -> "optuna.storages.RDBStorage":
    """SQLite storage of the study, in which a killed process leaves no half-written trial."""
    import optuna

    return optuna.storages.RDBStorage(f"sqlite:///{study_file(args)}")


def load_study(args: TrainingArguments) -> "optuna.Study":
    """The study of `output_dir`."""
    import optuna

    return optuna.load_study(study_name=STUDY_NAME, storage=storage(args))


def open_study(task: Task) -> "optuna.Study":
    """
    Create or resume the study of `output_dir`.

    A trial that was killed counts as failed, and its settings are tried again, once.

    Raises:
        RecipeError: the study had another recipe.
    """
    import optuna

    args = task.training_args
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    direction = "maximize" if args.greater_is_better else "minimize"
    study = optuna.create_study(study_name=STUDY_NAME, storage=storage(args), direction=direction, load_if_exists=True)
    recipe = {name: value for name, value in shareable_recipe(task).items() if name != "hp_trials"}
    changed = recipe_changes(study.user_attrs.get("recipe", recipe), recipe)
    if changed:
        raise RecipeError(
            f"{study_file(args)} is a search with another recipe, different in {', '.join(changed)}. Only trials of "
            "one recipe are comparable: give that recipe, or replace resuming by --overwrite_output_dir true."
        )
    study.set_user_attr("recipe", json.loads(json.dumps(recipe, default=str)))
    states = optuna.trial.TrialState
    tried = [trial.params for trial in study.get_trials(states=[states.FAIL])]
    for trial in study.get_trials(states=[states.RUNNING]):
        study.tell(trial.number, state=states.FAIL)
        if trial.params and trial.params not in tried:
            study.enqueue_trial(trial.params)
    return study


def finished(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Trials that were completed or pruned."""
    import optuna

    return study.get_trials(states=[optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED])


def write_results(study: "optuna.Study", task: Task, data: LoadedData) -> str:
    """Write the trials as table, plot and page, and the best settings as a recipe; returns the page."""
    folder = Path(task.training_args.output_dir)
    report = folder / "report"
    report.mkdir(parents=True, exist_ok=True)
    table = trial_table(study, task)
    table.to_csv(report / "trials.csv", index=False)
    plot_trials(report / "search.png", table, task)
    best = best_recipe(task, study.best_params)
    (folder / "best_recipe.json").write_text(
        json.dumps(best, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    page = results_page(study, task, data, table)
    (report / "report.md").write_text(page, encoding="utf-8")
    return page


def trial_table(study: "optuna.Study", task: Task) -> pd.DataFrame:
    """One row per trial that ended: `trial`, `state`, the objective, `minutes` and the settings; the best first."""
    import optuna

    metric = task.training_args.metric_for_best_model.removeprefix("eval_")
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            metric: None if trial.state == optuna.trial.TrialState.FAIL else trial.value,
            "minutes": round(trial.duration.total_seconds() / 60, 2) if trial.duration else None,
            **{dimension.name: trial.params.get(dimension.name) for dimension in search_space(task)},
        }
        for trial in ended
    ]
    table = pd.DataFrame(rows).astype({metric: float})
    rank = table["state"].map({"complete": 0, "pruned": 1, "fail": 2})
    better = -table[metric] if task.training_args.greater_is_better else table[metric]
    return (
        table.assign(rank=rank, better=better)
        .sort_values(["rank", "better", "trial"])
        .drop(columns=["rank", "better"])
    )


def plot_trials(path: Path, table: pd.DataFrame, task: Task) -> None:
    """
    Draw the objective over trials, with the best so far, and over each field that was searched.

    Args:
        path: PNG to write.
        table: From `trial_table`.
        task: Task whose recipe has the search space.
    """
    space = search_space(task)
    metric = task.training_args.metric_for_best_model.removeprefix("eval_")
    columns = min(3, len(space) + 1)
    rows = math.ceil((len(space) + 1) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    complete = table[table["state"] == "complete"].sort_values("trial")
    pruned = table[table["state"] == "pruned"]
    best = complete[metric].cummax() if task.training_args.greater_is_better else complete[metric].cummin()
    axes[0].step(complete["trial"], best, where="post", color="tab:orange", label="best so far")
    for part, style, label in ((complete, "o", "complete"), (pruned, "x", "pruned")):
        if len(part):
            axes[0].plot(part["trial"], part[metric], style, label=label)
            for panel, dimension in zip(axes[1:], space, strict=False):
                draw_values(panel, part, dimension, metric, style)
    axes[0].set(xlabel="trial", ylabel=metric)
    axes[0].legend()
    for panel in axes:
        panel.grid(alpha=0.3)
        panel.set_visible(panel in axes[: len(space) + 1])
    figure.savefig(path, dpi=130)


def draw_values(axes: Any, part: pd.DataFrame, dimension: Dimension, metric: str, style: str) -> None:
    """Draw the objective over one field."""
    values = part[dimension.name]
    axes.plot(values.map(str) if dimension.choices else values, part[metric], style)
    axes.set(xlabel=dimension.name, ylabel=metric, xscale="log" if dimension.log else axes.get_xscale())


def best_recipe(task: Task, settings: dict[str, Any]) -> dict[str, Any]:
    """The recipe that trains with the best settings into the folder `best`."""
    left_out = ("hp_trials", "hp_space", "resume_from_checkpoint", "overwrite_output_dir")
    best = {"task": task.name(), **recipe_with(task, recipe_fields(task.recipe, settings))}
    return {
        **{name: value for name, value in best.items() if name not in left_out},
        "output_dir": str(Path(task.training_args.output_dir, "best")),
    }


def results_page(study: "optuna.Study", task: Task, data: LoadedData, table: pd.DataFrame) -> str:
    """The results of the search in Markdown."""
    args = task.training_args
    metric = args.metric_for_best_model.removeprefix("eval_")
    shown = table.map(lambda value: f"{value:.4g}" if isinstance(value, float) and not math.isnan(value) else value)
    parts = [f"# {task.name()}, hyperparameter search, protocol {data.protocol}"]
    parts += [f"> {note}" for note in data.notes]
    parts += [
        f"Best {metric} on validation: {study.best_value:.4f} in trial {study.best_trial.number}, of {len(table)}. "
        "This value is optimistic, because the trial was chosen by it; test was not scored. No trial's model was "
        "kept: `best_recipe.json` trains the best one.",
        markdown_table(shown.astype(object).where(table.notna(), "")),
        "![Objective by trial and by field](search.png)",
    ]
    return "\n\n".join(parts) + "\n"
