"""A run that is stuck on blanks, found and named."""

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_fer.recipe.arguments import TrainingArguments

logger = logging.getLogger(__name__)

STUCK_SHARE = 0.99
STUCK_WER = 0.9


def is_stuck(blank_share: float, wer: float) -> bool:
    """Whether a model writes almost nothing but blanks, and almost no word."""
    return blank_share > STUCK_SHARE and wer > STUCK_WER


def advice(blank_share: float) -> str:
    """What to say of it, and to do about it."""
    return (
        f"STUCK ON BLANKS: the best token of {blank_share:.1%} of the frames is the blank, so "
        "the model writes next to nothing. If the training loss still falls, give it more steps (--num_train_epochs); "
        "if not, raise --learning_rate, or lower it where the loss jumps, and see whether it learns with --augment "
        "false. Last, look whether the transcripts are those of their files."
    )


class BlankWatch(TrainerCallback):
    """
    Names a training that is stuck on blanks, once, and lets it go on.

    Args:
        steps: A training may write blanks alone until then: CTC learns where nothing is said first.
    """

    def __init__(self, steps: int):
        self.steps, self.said = steps, False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        share, wer = metrics.get("eval_blank_share"), metrics.get("eval_wer")
        if share is None or wer is None or state.global_step < self.steps or self.said:
            return
        if is_stuck(share, wer) and state.is_world_process_zero:
            logger.warning("After %d steps: %s", state.global_step, advice(share))
            self.said = True
