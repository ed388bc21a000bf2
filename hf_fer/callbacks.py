"""What the stock Trainer lacks."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_fer.arguments import TrainingArguments
from hf_fer.data.augment import EpochClock
from hf_fer.data.loading import enforce_skip_limit, read_skipped


class EpochCallback(TrainerCallback):
    """Tells the augmentation which epoch it is, before the data loader starts on it."""

    def __init__(self, clock: EpochClock):
        self.clock = clock

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A run resumed in mid-epoch starts at a fractional epoch: the augmentation is that of the whole epoch.
        self.clock.epoch = int(state.epoch + 1e-6)


class SaveProcessorCallback(TrainerCallback):
    """
    Puts the processor into every checkpoint.

    The Trainer would, as its `processing_class`, but it takes for granted that a processor has a tokenizer.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.should_save:
            self.processor.save_pretrained(Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"))


class SkipLimitCallback(TrainerCallback):
    """Ends training when files that went bad during the run are more than the recipe allows."""

    def __init__(self, skipped_file: Path, total: int, max_fraction: float):
        self.skipped_file = skipped_file
        self.total = total
        self.max_fraction = max_fraction

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        enforce_skip_limit(read_skipped(self.skipped_file), self.total, self.max_fraction)
