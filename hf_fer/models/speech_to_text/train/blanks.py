"""Detects a training run that is stuck on blanks, and warns of it."""

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_fer.recipe.arguments import TrainingArguments

logger = logging.getLogger(__name__)

STUCK_SHARE = 0.95
STUCK_WER = 0.9


def is_stuck(blank_share: float, wer: float) -> bool:
    """Whether a model writes almost only blanks and hardly any word."""
    return blank_share > STUCK_SHARE and wer > STUCK_WER


def advice(blank_share: float) -> str:
    """The warning for a run that is stuck on blanks, with remedies."""
    return (
        f"STUCK ON BLANKS: the best token of {blank_share:.1%} of the frames is the blank, so the model writes almost "
        "nothing. If the training loss still falls, train for more steps (--num_train_epochs). If it stays or jumps, "
        "divide --learning_rate by four; if that is no better, multiply it by three. Then try --augment false, or "
        "--units nfc in place of bpe. Last, check that the transcripts belong to their files."
    )


class BlankWatch(TrainerCallback):
    """
    Warns once if training is stuck on blanks; training goes on.

    Args:
        steps: No warning comes before this step, because a CTC model first learns to write blanks.
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
