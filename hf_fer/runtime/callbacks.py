"""Callbacks for what the stock Trainer lacks."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import get_sampler
from torch import nn
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_fer.adapters import base_model
from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import LoadedData, file_facts
from hf_fer.data.skipped import SkippedFile, enforce_skip_limit
from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.reporting.report import peak_memory
from hf_fer.reporting.sharing import add_pipeline
from hf_fer.runtime.processes import share_statistics

logger = logging.getLogger(__name__)


def restore_state(callback: ExportableState, state: TrainerState) -> None:
    """Restore a callback's counts from the checkpoint that a run resumes; its settings stay those of the recipe."""
    saved = state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
    for name, value in saved["attributes"].items():
        setattr(callback, name, value)


def add_to_log(state: TrainerState, logs: dict[str, float], numbers: dict[str, float]) -> None:
    """Add numbers to a log entry, for the history and for the loggers that are called later."""
    logs.update(numbers)
    state.log_history[-1].update(numbers)


class EpochCallback(TrainerCallback):
    """Sets the epoch of the augmentation before the data loader starts it."""

    def __init__(self, clock: EpochClock):
        self.clock = clock

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A run that resumes within an epoch starts at a fractional epoch; augmentation is seeded by its whole number.
        self.clock.epoch = int(state.epoch + 1e-6)


class RepeatableRandomness(TrainerCallback):
    """
    Gives the sampler and the data loader their own generators, so that a resumed run draws the same dropout masks.

    A data loader draws a seed whenever its workers start, which persistent workers do once per process, and the
    sampler that groups by length draws an order for each epoch. Their generators are seeded by seed and epoch.
    Evaluation restores the state of torch's default generator.
    """

    def __init__(self):
        self._before_evaluation: torch.Tensor | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loader, seed = kwargs["train_dataloader"], args.seed + int(state.epoch + 1e-6)
        # accelerate wraps the loader that it iterates over
        getattr(loader, "base_dataloader", loader).generator = torch.Generator().manual_seed(seed)
        sampler = get_sampler(loader)
        if isinstance(sampler, LengthGroupedSampler):
            sampler.generator = torch.Generator().manual_seed(seed)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_evaluate:
            self._before_evaluation = torch.get_rng_state()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if control.should_evaluate:
            self._before_evaluation = torch.get_rng_state()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._before_evaluation is not None:
            torch.set_rng_state(self._before_evaluation)


class SharedStatistics(TrainerCallback):
    """
    Gives all processes the BatchNorm statistics of the first one before an evaluation.

    On a CPU, each process has its own statistics until DDP's next forward pass in training, so that the processes
    would evaluate different models.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        if control.should_evaluate:
            share_statistics(model)

    on_epoch_end = on_step_end

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        share_statistics(model)


class UnfreezeCallback(TrainerCallback):
    """
    Keeps model parts frozen until a given epoch.

    The parts are trainable when the optimizer is created, so that it includes them, and are frozen when training
    begins. A resumed run behaves like an uninterrupted one.

    Args:
        epochs: Model part -> epoch from which it trains.
    """

    def __init__(self, epochs: dict[str, float]):
        self.epochs = epochs

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model, now = base_model(kwargs["model"]), int(state.epoch + 1e-6)
        model.freeze(part for part, epoch in self.epochs.items() if epoch > now)
        model.unfreeze(part for part, epoch in self.epochs.items() if epoch <= now)


class SaveProcessorCallback(TrainerCallback):
    """
    Saves the processor, the model's configuration (which peft does not save) and the code of the system's pipeline,
    if it has one, in every checkpoint.

    The Trainer would save its `processing_class`, but it assumes that a processor has a tokenizer.
    """

    def __init__(self, processor: Any, pipeline_task: str | None = None):
        self.processor = processor
        self.pipeline_task = pipeline_task

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.should_save:
            folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
            self.processor.save_pretrained(folder)
            base_model(kwargs["model"]).config.save_pretrained(folder)
            if self.pipeline_task:
                add_pipeline(folder, self.pipeline_task)


class SkipLimitCallback(TrainerCallback):
    """Ends training when more examples were skipped than `max_fraction` allows, those of this run included."""

    def __init__(self, skipped_file: SkippedFile, total: int, max_fraction: float):
        self.skipped_file = skipped_file
        self.total = total
        self.max_fraction = max_fraction
        self.known = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.known = len(self.skipped_file.read())  # loading the data has warned of these

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        args.distributed_state.wait_for_everyone()  # so that all processes read the same list and decide alike
        skipped = self.skipped_file.read()
        enforce_skip_limit(skipped, self.total, self.max_fraction, self.known)
        self.known = len(skipped)


class ChangedFilesCallback(TrainerCallback):
    """
    Notes at the end of each epoch which data files were replaced during training.

    Args:
        data: Data whose notes get a sentence about it.
        columns: Names of the columns with paths.
    """

    def __init__(self, data: LoadedData, columns: Iterable[str]):
        self.notes = data.notes
        self.facts = {
            path: file_facts(path)
            for split in data.splits.values()
            for column in set(columns) & set(split.column_names)
            for path in split[column]
            if isinstance(path, str)
        }
        self.note: str | None = None

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        changed = [path for path, facts in self.facts.items() if file_facts(path) != facts]
        if not changed or not state.is_world_process_zero:
            return
        if self.note is None:
            logger.warning("Files replaced during training: %s, and %d others.", changed[0], len(changed) - 1)
        else:
            self.notes.remove(self.note)
        self.note = (
            f"{len(changed)} of {len(self.facts)} files were replaced during training: the model may have been "
            "trained on their old and new contents, and provenance.json describes the old ones."
        )
        self.notes.append(self.note)


class PeakMemoryCallback(TrainerCallback):
    """Adds the highest memory use so far, in MiB, to the training log."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if "loss" in logs:
            add_to_log(state, logs, {f"peak_{name}": value for name, value in peak_memory().items()})


class ResumedEarlyStopping(EarlyStoppingCallback):
    """
    Early stopping that continues the checkpoint's count of evaluations without improvement.

    A run that had stopped early and was killed before its report stops again when it is resumed, after one more step,
    which is neither evaluated nor saved.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        restore_state(self, state)
        self.had_stopped = self.early_stopping_patience_counter >= self.early_stopping_patience

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.had_stopped:
            control.should_training_stop = True
            control.should_evaluate = control.should_save = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.had_stopped:
            control.should_evaluate = control.should_save = False
