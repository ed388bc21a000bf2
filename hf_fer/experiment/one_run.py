"""One run, from the task of a recipe to its report."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from huggingface_hub.errors import StrictDataclassError
from transformers import EvalPrediction, PreTrainedModel, Trainer, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy

from hf_fer import adapters
from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import DataError, LoadedData, cache_dir
from hf_fer.data.progress import without_bars
from hf_fer.data.sources import check_sources
from hf_fer.experiment import cross_validation, provenance
from hf_fer.experiment.dry_run import describe
from hf_fer.experiment.fit import fit
from hf_fer.experiment.score import closing_lines, contents, evaluate, finish
from hf_fer.experiment.search import prepare_search, search
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.reporting import report
from hf_fer.reporting.sharing import UploadCheckpoints
from hf_fer.runtime import output_folder
from hf_fer.runtime.callbacks import (
    ChangedFilesCallback,
    EpochCallback,
    RepeatableRandomness,
    ResumedEarlyStopping,
    SaveProcessorCallback,
    SharedStatistics,
    SkipLimitCallback,
    UnfreezeCallback,
)
from hf_fer.runtime.checkpoints import load_weights
from hf_fer.runtime.failures import explained
from hf_fer.runtime.interruption import end_loader_workers
from hf_fer.runtime.own_batches import batch_size, use_own_batches
from hf_fer.runtime.preparation import check_hub_access, prepare_output, replace_earlier, share_cores
from hf_fer.runtime.processes import in_processes
from hf_fer.task.base import Task
from hf_fer.task.checks import CANNOT_CHECKPOINT
from hf_fer.task.scoring import Trained
from hf_fer.task.settings import adapted, lora_settings, shared_patterns, skipped_file
from hf_fer.weights.starting_points import NOT_LOADABLE


def make_trainer(
    task: Task,
    data: LoadedData,
    splits: DatasetDict,
    model: PreTrainedModel,
    processor: Any,
    origin: provenance.Provenance,
    clock: EpochClock,
) -> Trainer:
    """The stock Trainer with the task's data, collator, metrics and callbacks; `DataError` if a split is missing."""
    args = task.training_args
    if args.do_train and "train" not in splits:
        raise DataError(f"There is nothing to train on: {data.absent.get('train', 'no train split')}.")
    if args.do_train and args.eval_strategy != "no" and "validation" not in splits:
        raise DataError(
            "There is no validation split to choose the checkpoint on. Add one, or pass --eval_strategy no "
            "--load_best_model_at_end false."
        )
    total = sum(len(split) for split in splits.values()) + len(data.skipped)
    callbacks = [
        EpochCallback(clock),
        *task.callbacks(),
        provenance.ProvenanceCallback(origin),
        SaveProcessorCallback(processor, task.pipeline_task),
        SkipLimitCallback(skipped_file(task), total, task.data_args.max_skipped_fraction),
        ChangedFilesCallback(data, task.file_columns),
        RepeatableRandomness(),
        SharedStatistics(),
    ]
    if task.model_args.unfreeze:
        callbacks.append(UnfreezeCallback(task.model_args.unfreeze))
    if args.early_stopping_patience is not None:
        callbacks.append(ResumedEarlyStopping(args.early_stopping_patience, args.early_stopping_threshold))
    if args.world_size > 1 and args.ddp_find_unused_parameters is None:
        # The Trainer's default is False with gradient checkpointing, but parts may be frozen or unused in a step.
        args.ddp_find_unused_parameters = True

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        trained = Trained(model=adapters.base_model(trainer.model), processor=processor, data=data)
        return task.compute_metrics(prediction, trained)

    args.run_name = args.run_name or Path(args.output_dir).name  # trackers would make one up
    try:
        trainer = Trainer(
            model=in_processes(model, args),
            args=args,
            train_dataset=splits.get("train"),
            eval_dataset=splits.get("validation"),
            data_collator=task.collator(processor),
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=task.preprocess_logits,
            callbacks=callbacks,
        )
    except (ValueError, ImportError) as error:  # such as fsdp in one process, or an unknown backend
        raise RecipeError(f"The Trainer refuses fields of the recipe: {' '.join(str(error).split())}") from error
    use_own_batches(trainer)
    if args.push_to_hub and args.upload_strategy != HubStrategy.END:
        trainer.add_callback(UploadCheckpoints(trainer.hub_model_id, shared_patterns(task)))
    return trainer


def check_checkpointing(model: PreTrainedModel, args: TrainingArguments) -> None:
    """Raises `RecipeError` where the recipe has `gradient_checkpointing` and the model does not support it."""
    if (args.gradient_checkpointing or args.activation_checkpointing) and not model.supports_gradient_checkpointing:
        raise RecipeError(CANNOT_CHECKPOINT.format(type(model).__name__))


def save(trainer: Trainer, task: Task, processor: Any) -> dict[str, Any]:
    """Save the best checkpoint's model with its processor; returns figures of the training for the report."""
    adapters.merge(trainer, lora_settings(task))
    # `_internal_call` keeps the Trainer from pushing: one push follows, with card and report.
    trainer.save_model(_internal_call=True)
    args, state = trainer.args, trainer.state
    if args.should_save:
        best = state.best_model_checkpoint
        told = replace(state, best_model_checkpoint=best and Path(best).name)
        told.save_to_json(Path(args.output_dir, TRAINER_STATE_NAME))
        processor.save_pretrained(args.output_dir)
        adapters.base_model(trainer.model).config.save_pretrained(args.output_dir)
    speed = {name: value for name, value in state.log_history[-1].items() if name.startswith("train_")}
    return {
        "epochs": state.epoch,
        "steps": state.global_step,
        "skipped_steps": state.stateful_callbacks["NonFiniteGuard"]["attributes"]["skipped"],
        "batch": batch_size(args, trainer.train_dataset),
        **speed,
        "best_metric": state.best_metric,
    }


def nothing() -> None:
    """Default of `run`'s `loaded`: do nothing once data and model have loaded."""


def run(task: Task, loaded: Callable[[], None] = nothing) -> None:
    """
    Run a task from start to end; a cross-validation consists of several runs.

    Args:
        task: Task to run.
        loaded: Called in every process when data and model have loaded, before an earlier run is replaced.
    """
    args = task.training_args
    check_sources(task.model_args, task.data_args.dataset)
    if args.dry_run:
        return cross_validation.train_folds(task, run) if task.data_args.fold == "all" else dry_run(task)
    if not args.do_train:
        args.output_dir = str(output_folder.evaluation_folder(args, task.data_args.dataset, task.data_args.fold))
    with output_folder.locked(args):
        if task.data_args.fold == "all":
            cross_validation.train_folds(task, run)
        else:
            run_once(task, loaded)
        if args.should_save:
            output_folder.record(Path(args.output_dir))


def dry_run(task: Task) -> None:
    """Print what a run would do."""
    data, _ = load_data(task)
    processor = task.build_processor(data)
    splits = task.with_transforms(data, processor, EpochClock())
    print(describe(task, data, splits, new_model(task, data, processor), processor))


def load_data(task: Task) -> tuple[LoadedData, provenance.Provenance]:
    """Set seed and threads, and load data and provenance; the main process is first, so that others use its caches."""
    set_seed(task.training_args.seed)
    args = task.training_args
    share_cores(args)
    bars = without_bars() if args.disable_tqdm else nullcontext()
    with bars, args.main_process_first(local=False, desc="reading the data"):
        data = task.load_data()
        return data, provenance.establish(task, data)


def new_model(task: Task, data: LoadedData, processor: Any) -> PreTrainedModel:
    """Build the task's model, initialised by its seed."""
    set_seed(task.training_args.seed)
    overrides = task.model_args.config_overrides
    try:
        model = task.build_model(data, processor)
    except (RecipeError, DataError, torch.OutOfMemoryError):
        raise
    except (*NOT_LOADABLE, StrictDataclassError) as error:
        if not overrides:
            raise
        reason = " ".join(str(error).split())
        raise RecipeError(f"config_overrides: no model can be built with {overrides} ({reason}).") from error
    check_checkpointing(model, task.training_args)
    return adapted(task, model)


def run_once(task: Task, loaded: Callable[[], None]) -> None:
    """Train and evaluate one model, or run one hyperparameter search."""
    args = task.training_args
    check_hub_access(args)
    cache_dir()  # fails early if the cache is not writable
    if args.hp_trials:
        prepare_search(args)
    start = prepare_output(args, task.model_args.model_name_or_path)
    resume, task.replaces_report = start.resume, start.replaces
    task.resumes = bool(resume) and args.do_train
    if args.should_save:
        output_folder.discard_new_report(Path(args.output_dir))
    data, origin = load_data(task)
    if resume and args.do_train:
        provenance.check_resumption(resume, origin.own, task.data_args.max_skipped_fraction)
    processor = task.build_processor(data)
    build = partial(new_model, task, data, processor)
    if start.replaces:
        build()  # fails before the earlier run is removed if the model cannot be built
    loaded()
    replace_earlier(args, start)
    task.replaces_report = False

    def encoding_model() -> PreTrainedModel:
        """The model whose encoders fill the caches, with the checkpoint's weights if the run resumes."""
        return load_weights(build(), resume) if resume and args.do_train else build()

    with explained(args, task.memory_hints(), task.can_checkpoint()):
        if caches := task.caches(data, processor):
            data = caches.fill(encoding_model)
        clock = EpochClock()
        splits = task.with_transforms(data, processor, clock)

        def new_trainer() -> Trainer:
            return make_trainer(task, data, splits, build(), processor, origin, clock)

        if args.hp_trials:
            return search(new_trainer(), task, data, processor)
        trainer = fit(new_trainer, args, resume) if args.do_train else new_trainer()
        runtime = save(trainer, task, processor) if args.do_train else {}
        if args.do_train and args.should_save:
            origin.write(args.output_dir)
        reports = evaluate(trainer, task, data, splits, processor)
        end_loader_workers(trainer)
        if trainer.is_world_process_zero():
            finish(trainer, task, data, reports, runtime, apart=origin.apart)
            results = contents(reports)
            print(report.results_page(results, data.notes), closing_lines(task, results), sep="\n\n")
