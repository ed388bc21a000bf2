"""Train, evaluate and save any of the systems:

accelerate launch --config_file accelerate_configs/cpu.yaml hf_fer/run.py training_args/demo/multimodal_fer.json \
    [--any_field value ...]
"""

import logging
import sys
from functools import partial
from typing import Any

import transformers
from datasets import DatasetDict
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, set_seed

from hf_fer import report
from hf_fer.arguments import RecipeError
from hf_fer.callbacks import SaveProcessorCallback, SkipLimitCallback
from hf_fer.data.loading import DataError, LoadedData
from hf_fer.dry_run import describe
from hf_fer.preparation import check_hub_access, prepare_output, share_cores
from hf_fer.results import evaluate, finish
from hf_fer.task import Task, general_help, parse_task


def make_trainer(task: Task, data: LoadedData, splits: DatasetDict, model: PreTrainedModel, processor: Any) -> Trainer:
    """The stock Trainer with the task's parts; raises `DataError` where a split that it needs is missing."""
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
        *task.callbacks(),
        SaveProcessorCallback(processor),
        SkipLimitCallback(task.skipped_file, total, task.data_args.max_skipped_fraction),
    ]
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))
    return Trainer(
        model=model,
        args=args,
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        data_collator=task.collator(processor),
        compute_metrics=partial(task.compute_metrics, labels=data.labels),
        callbacks=callbacks,
    )


def train(trainer: Trainer, processor: Any, resume: bool | str) -> dict[str, Any]:
    """Train, save the best checkpoint with its processor, and return what there is to say of the run."""
    outcome = trainer.train(resume_from_checkpoint=resume)
    # Not pushed here: the one push, with card and report, comes last.
    trainer.save_model(_internal_call=True)
    trainer.save_state()
    if trainer.args.should_save:
        processor.save_pretrained(trainer.args.output_dir)
    state = trainer.state
    speed = {name: value for name, value in outcome.metrics.items() if name.startswith("train_")}
    return {"epochs": state.epoch, "steps": state.global_step, **speed, "best_metric": state.best_metric}


def run(task: Task) -> None:
    """One run, start to end."""
    args = task.training_args
    if not args.dry_run:
        check_hub_access(args)
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
    runtime = train(trainer, processor, resume) if args.do_train else {}
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
