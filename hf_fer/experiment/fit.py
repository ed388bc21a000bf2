"""Training that survives non-finite steps, signals, and batches that are too large for memory."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack

from accelerate.utils.memory import clear_device_cache
from transformers import Trainer

from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.runtime.callbacks import PeakMemoryCallback
from hf_fer.runtime.checkpoints import WholeCheckpoints, newest_whole, read_manifest
from hf_fer.runtime.failures import in_evaluation, is_out_of_memory, smaller_batch
from hf_fer.runtime.interruption import StopOnSignal, end_loader_workers
from hf_fer.runtime.nonfinite import NonFiniteGuard
from hf_fer.weights.whole import whole_loads

logger = logging.getLogger(__name__)


def fit(new_trainer: Callable[[], Trainer], args: TrainingArguments, resume: bool | str) -> Trainer:
    """
    Train. With `auto_find_batch_size`, repeat with a smaller batch whenever memory runs out.

    Gradient accumulation rises as the batch shrinks, so that the effective batch size does not change. Each attempt
    resumes from the last checkpoint of this run or, without one, starts from the same initial weights.

    Args:
        new_trainer: Builds the model and its Trainer; called once for each attempt.
        args: The Trainer's arguments; batch size and accumulation are set to the values that fit into memory.
        resume: Checkpoint folder to resume from, or False.

    Raises:
        RecipeError: `auto_find_batch_size` is used with several processes.
        Interrupted: a signal ended training; a checkpoint is saved.
        RunError: too many consecutive steps were skipped.
        RuntimeError: memory ran out and the batch size cannot be lowered.
    """
    automatic, args.auto_find_batch_size = args.auto_find_batch_size, False
    if automatic and args.world_size > 1:
        raise RecipeError("auto_find_batch_size works in one process: the others would wait for the one that is full.")
    started = time.time()
    while True:
        trainer = new_trainer()
        try:
            train_watched(trainer, resume)
            return trainer
        except RuntimeError as error:
            if not (automatic and is_out_of_memory(error) and lower_batch_size(args, in_evaluation(error))):
                raise
        del trainer
        clear_device_cache(garbage_collection=True)
        newest = newest_whole(args.output_dir)
        if newest and read_manifest(newest)["completed"] >= started:  # older checkpoints belong to another run
            resume = str(newest)


def train_watched(trainer: Trainer, resume: bool | str) -> None:
    """`Trainer.train` with the guards of `runtime`; each callback's docstring gives its place in the order."""
    args = trainer.args
    guard = NonFiniteGuard(args.skip_grad_norm, args.max_skipped_steps)
    checkpoints, stop = WholeCheckpoints(), StopOnSignal()
    # Callbacks that add numbers to the log must come before the loggers, which write it.
    trainer.callback_handler.callbacks[:0] = [guard, PeakMemoryCallback()]
    trainer.add_callback(checkpoints)
    trainer.add_callback(stop)
    with ExitStack() as stack:
        stack.callback(end_loader_workers, trainer)
        for context in (guard.watching(trainer), checkpoints.kept(trainer), stop.listening()):
            stack.enter_context(context)
        if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            stack.enter_context(whole_loads(trainer.model))
        trainer.train(resume_from_checkpoint=resume)


def lower_batch_size(args: TrainingArguments, evaluating: bool) -> bool:
    """Halve the evaluation batch, or lower the training batch at the same effective size; False if that is 1."""
    if evaluating and args.per_device_eval_batch_size > 1:
        args.per_device_eval_batch_size //= 2
        logger.warning("Out of memory in evaluation: retrying with batches of %d.", args.per_device_eval_batch_size)
        return True
    smaller = None if evaluating else smaller_batch(args)
    if smaller:
        args.per_device_train_batch_size, args.gradient_accumulation_steps = smaller
        logger.warning("Out of memory: retrying with batch %d x accumulation %d.", *smaller)
    return smaller is not None
