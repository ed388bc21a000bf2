"""What the stock Trainer lacks."""

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
from hf_fer.data.loading import LoadedData, enforce_skip_limit, file_facts, read_skipped
from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.reporting.report import peak_memory
from hf_fer.reporting.sharing import add_pipeline
from hf_fer.runtime.processes import share_statistics

logger = logging.getLogger(__name__)


def restore_state(callback: ExportableState, state: TrainerState) -> None:
    """Take a callback's counts from the checkpoint that a run resumes; its settings stay those of the recipe."""
    saved = state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
    for name, value in saved["attributes"].items():
        setattr(callback, name, value)


def add_to_log(state: TrainerState, logs: dict[str, float], numbers: dict[str, float]) -> None:
    """Put numbers into a log entry, for the history and for the loggers whose turn comes after."""
    logs.update(numbers)
    state.log_history[-1].update(numbers)


class EpochCallback(TrainerCallback):
    """Tells the augmentation which epoch it is, before the data loader starts on it."""

    def __init__(self, clock: EpochClock):
        self.clock = clock

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A run resumed in mid-epoch starts at a fractional epoch: the augmentation is that of the whole epoch.
        self.clock.epoch = int(state.epoch + 1e-6)


class RepeatableRandomness(TrainerCallback):
    """
    Keeps what a resumed process does anew out of the generator that dropout draws from.

    Each data loader draws a seed when its workers start, which persistent ones do once in a process, and the sampler
    that groups by length draws an epoch's order: both get generators of their own, a function of seed and epoch.
    Evaluation leaves the generator as it found it.
    """

    def __init__(self):
        self._before_evaluation: torch.Tensor | None = None

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loader, seed = kwargs["train_dataloader"], args.seed + int(state.epoch + 1e-6)
        # accelerate iterates over a loader inside its own
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
    Gives all processes the first one's BatchNorm statistics before they evaluate together.

    On a CPU each has its own until DDP's next forward pass in training, and a score would be of several models.
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
    Keeps parts frozen until their epoch.

    They are trainable when the optimizer is made, which would else not know them, and freeze as training begins.

    Args:
        epochs: Part -> epoch from which it trains; a resumed run does as the uninterrupted one.
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
    Puts the processor into every checkpoint, the model's configuration, which peft leaves out of its own, and the
    pipeline's code where the system has one that travels.

    The Trainer would, as its `processing_class`, but it takes for granted that a processor has a tokenizer.
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
    """Ends training when files that went bad during the run are more than the recipe allows."""

    def __init__(self, skipped_file: Path, total: int, max_fraction: float):
        self.skipped_file = skipped_file
        self.total = total
        self.max_fraction = max_fraction
        self.known = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.known = len(read_skipped(self.skipped_file))  # which preparation has warned of

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        args.distributed_state.wait_for_everyone()  # so that all processes read, and decide, the same
        skipped = read_skipped(self.skipped_file)
        enforce_skip_limit(skipped, self.total, self.max_fraction, self.known)
        self.known = len(skipped)


class ChangedFilesCallback(TrainerCallback):
    """
    Notes, at the end of each epoch, files of the data that were replaced while the run goes on.

    Args:
        data: Its notes get the sentence.
        columns: Those with paths.
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
            logger.warning("Replaced while the run goes on: %s, and %d others.", changed[0], len(changed) - 1)
        else:
            self.notes.remove(self.note)
        self.note = (
            f"{len(changed)} of {len(self.facts)} files were replaced during training: the model may have been "
            "trained on both their states, and provenance.json has the first."
        )
        self.notes.append(self.note)


class PeakMemoryCallback(TrainerCallback):
    """Writes the highest memory use so far into the training log, in MiB."""

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
    Early stopping that goes on from the checkpoint's count of evaluations without improvement.

    A run that had stopped, and was killed before its report, stops again: it takes one step more, which is neither
    evaluated nor saved.
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
