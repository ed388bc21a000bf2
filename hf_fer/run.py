"""Train, evaluate and save any of the systems:

accelerate launch --config_file accelerate_configs/cpu.yaml hf_fer/run.py training_args/demo/multimodal_fer.json \
    [--any_field value ...]
"""

import logging
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from huggingface_hub import HfApi
from transformers import EarlyStoppingCallback, Trainer, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_fer import card, report
from hf_fer.arguments import RecipeError, TrainingArguments
from hf_fer.callbacks import SaveProcessorCallback, SkipLimitCallback
from hf_fer.data.loading import DataError, LoadedData, read_skipped
from hf_fer.dry_run import describe
from hf_fer.task import Task, general_help, parse_task

logger = logging.getLogger("hf_fer")


def prepare_output(args: TrainingArguments) -> bool | str:
    """Make room in `output_dir`; returns what `Trainer.train` resumes from. Raises RecipeError over an earlier run."""
    folder, resume = Path(args.output_dir), args.resume
    newest = get_last_checkpoint(folder) if folder.is_dir() else None
    if isinstance(resume, str):
        if not Path(resume).is_dir():
            raise RecipeError(f"resume_from_checkpoint: {resume} is not a folder.")
        return resume
    if resume:
        logger.warning("Resuming from %s.", newest) if newest else logger.warning("No checkpoint yet: a new run.")
        return newest or False
    if newest and args.do_train and not args.overwrite_output_dir:
        raise RecipeError(
            f"{folder} holds the checkpoints of an earlier run. Add --resume_from_checkpoint true to go on with it, "
            "--overwrite_output_dir true to start again, or another --output_dir."
        )
    if args.should_save and args.do_train and folder.is_dir():
        for old in [*folder.glob("checkpoint-*"), folder / "report"]:
            shutil.rmtree(old, ignore_errors=True)
    if args.should_save:
        (folder / "report" / "skipped.jsonl").unlink(missing_ok=True)
    return False


def share_cores(args: TrainingArguments) -> None:
    """
    On a CPU, leave the data loader's workers a core each.

    OpenMP threads that have to share a core with a worker wait for one another: steps become 30 times slower.
    """
    if args.device.type == "cpu" and args.dataloader_num_workers:
        cores = len(psutil.Process().cpu_affinity() or []) if hasattr(psutil.Process, "cpu_affinity") else None
        free = (cores or psutil.cpu_count() or 1) // args.world_size - args.dataloader_num_workers
        torch.set_num_threads(max(1, min(torch.get_num_threads(), free)))


def make_trainer(task: Task, data: LoadedData, splits: Any, model: Any, processor: Any) -> Trainer:
    """The stock Trainer with early stopping and the task's parts."""
    args = task.training_args
    callbacks = [*task.callbacks(), SaveProcessorCallback(processor)]
    total = sum(len(split) for split in splits.values()) + len(data.skipped)
    callbacks.append(SkipLimitCallback(task.skipped_file, total, task.data_args.max_skipped_fraction))
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))
    if args.do_train and "train" not in splits:
        raise DataError(f"There is nothing to train on: {data.absent.get('train', 'no train split')}.")
    if args.do_train and args.eval_strategy != "no" and "validation" not in splits:
        raise DataError(
            "There is no validation split to choose the checkpoint on. Add one, or pass --eval_strategy no "
            "--load_best_model_at_end false."
        )
    return Trainer(
        model=model,
        args=args,
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        data_collator=task.collator(processor),
        compute_metrics=partial(task.compute_metrics, labels=data.labels),
        callbacks=callbacks,
    )


def evaluate(trainer: Trainer, task: Task, data: LoadedData, splits: Any) -> dict[str, dict[str, Any]]:
    """Metrics of each split that was asked for, with those of its views nested by name."""
    wanted = {"validation": task.training_args.do_eval, "test": task.training_args.do_predict}
    results = {}
    for split in (name for name, asked in wanted.items() if asked and name in splits):
        prediction = trainer.predict(splits[split], metric_key_prefix=split)
        metrics = task.split_metrics(split, splits[split], prediction, data.labels)
        results[split] = {**metrics, "loss": prediction.metrics[f"{split}_loss"], "samples": len(splits[split])}
        for view, dataset in task.evaluation_views(splits[split]).items():
            prediction = trainer.predict(dataset, metric_key_prefix=view)
            results[split][view] = {name: prediction.metrics[f"{view}_{name}"] for name in task.metric_names}
    return results


def finish(trainer: Trainer, task: Task, data: LoadedData, results: dict[str, Any], runtime: dict[str, Any]) -> None:
    """Write report and model card, and push all of it where the recipe says so."""
    folder = task.skipped_file.parent
    folder.mkdir(parents=True, exist_ok=True)
    task.skipped_file.touch()
    metrics = {
        "task": task.name(),
        "protocol": data.protocol,
        **{
            split: results.get(split, {"absent": data.absent.get(split, "not asked for")})
            for split in ("validation", "test")
        },
        "data": {
            "dataset": Path(task.data_args.dataset).name,
            "counts": data.counts(),
            "skipped": len(read_skipped(task.skipped_file)),
            "notes": data.notes,
            "absent": data.absent,
        },
        "runtime": {**runtime, **report.peak_memory()},
        "environment": report.environment(),
    }
    captions = task.write_artifacts(folder, data, results)
    history = report.history_table(trainer.state.log_history)
    if len(history):
        report.plot_curves(folder / "curves.png", history, task.metric_names)
        captions["curves.png"] = "Losses, and validation metrics, by epoch."
    report.write_report(folder, metrics, history, captions)
    args = task.training_args
    repo_id = trainer.hub_model_id if args.push_to_hub else Path(args.output_dir).name
    card.write_card(Path(args.output_dir), task, metrics, repo_id)
    if args.push_to_hub:
        HfApi(token=args.hub_token).upload_folder(
            repo_id=repo_id,
            folder_path=args.output_dir,
            ignore_patterns=["checkpoint-*", "runs/*", "training_args.bin"],
            commit_message="Model, processor, card and report",
        )
        logger.warning("Pushed to %s.", repo_id)


def run(task: Task) -> None:
    """One run, start to end."""
    args = task.training_args
    resume = False if args.dry_run else prepare_output(args)
    set_seed(args.seed)
    share_cores(args)
    with args.main_process_first(local=False, desc="reading the data"):
        data = task.load_data()
    processor = task.build_processor(data)
    model = task.build_model(data, processor)
    splits = task.with_transforms(data.splits, processor)
    if args.dry_run:
        print(describe(task, data, splits, model, processor))
        return
    trainer = make_trainer(task, data, splits, model, processor)
    runtime = {}
    if args.do_train:
        outcome = trainer.train(resume_from_checkpoint=resume)
        trainer.save_model(_internal_call=True)
        if args.should_save:
            processor.save_pretrained(args.output_dir)
        trainer.save_state()
        runtime = {"epochs": trainer.state.epoch, "steps": trainer.state.global_step, **outcome.metrics}
        runtime["best_metric"] = trainer.state.best_metric
    results = evaluate(trainer, task, data, splits)
    if trainer.is_world_process_zero():
        finish(trainer, task, data, results, runtime)
        print(report.markdown_table(report.results_table(results)) if results else "Nothing was evaluated.")


def main(argv: list[str] | None = None) -> None:
    """Command line: exit status 2 and one message for what the user can mend, a traceback for what is our fault."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(general_help())
        return
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    transformers.utils.logging.set_verbosity_warning()
    try:
        run(parse_task(argv))
    except (RecipeError, DataError) as error:
        print(f"hf_fer: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
