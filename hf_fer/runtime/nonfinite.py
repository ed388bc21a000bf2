"""Skips optimizer steps whose loss, gradient norm or BatchNorm statistics are not finite."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.runtime.callbacks import add_to_log, restore_state
from hf_fer.runtime.failures import RunError
from hf_fer.runtime.processes import largest

logger = logging.getLogger(__name__)

REASONS = ("the loss is not finite", "the gradient norm is not finite", "BatchNorm statistics are not finite")


class NonFiniteGuard(TrainerCallback, ExportableState):
    """
    Skips optimizer steps that would make the model non-finite, in all processes alike, and counts them.

    A step is skipped if the loss of one of its micro-batches, the gradient norm before clipping or a running
    statistic is not finite, or if the norm exceeds `max_norm`. Its gradients are dropped, which makes the optimizer's
    step a no-op for parameters, weight decay and moments, and running statistics are restored to their values before
    the step's first forward pass. The step counts for `global_step` and for the learning rate schedule, so that the
    run ends where it was planned to; a step that fp16's gradient scaler skips by itself does not advance the schedule.

    Use it as a callback and, around `trainer.train`, as `with guard.watching(trainer)`. It costs one synchronisation
    with the device per optimizer step. DeepSpeed makes the optimizer's step inside its backward pass: there the guard
    can only count and stop.

    Args:
        max_norm: Largest gradient norm before clipping; `None` for any finite one.
        patience: Number of consecutive skipped steps after which training stops.

    Raises:
        RunError: `patience` is exhausted; the message says what to change.
    """

    def __init__(self, max_norm: float | None = None, patience: int = 25):
        self.max_norm = max_norm
        self.patience = patience
        self.skipped = 0
        self.in_a_row = 0
        self._logged = (0, 0)
        self._trainer: Trainer | None = None
        self._listen_to = ExitStack()
        self._norm: torch.Tensor | float | None = None
        self._loss_finite: torch.Tensor | None = None
        self._statistics: dict[torch.dtype, list[torch.Tensor]] = {}
        self._before: dict[torch.dtype, torch.Tensor] = {}

    def state(self) -> dict[str, Any]:
        """Counts that a resumed run continues."""
        return {
            "args": {"max_norm": self.max_norm, "patience": self.patience},
            "attributes": {"skipped": self.skipped, "in_a_row": self.in_a_row},
        }

    @contextmanager
    def watching(self, trainer: Trainer) -> Iterator[None]:
        """
        Let the guard see each loss and each gradient norm before clipping, which the Trainer passes to no callback.

        Several trainings may run inside, each with its own model and accelerator, such as the trials of a search.
        """
        self._trainer = trainer
        try:
            yield
        finally:
            self._listen_to.close()
            self._trainer = None

    def _listen(self, trainer: Trainer) -> None:
        self._listen_to.close()
        accelerator = trainer.accelerator
        clip = accelerator.clip_grad_norm_

        def clip_and_tell(*args: Any, **kwargs: Any) -> Any:
            self._norm = clip(*args, **kwargs)
            return self._norm

        accelerator.clip_grad_norm_ = clip_and_tell
        self._listen_to.callback(delattr, accelerator, "clip_grad_norm_")
        self._listen_to.callback(trainer.model.register_forward_hook(self._see_loss).remove)

    def _see_loss(self, module: nn.Module, inputs: Any, output: Any) -> None:
        loss = output.get("loss") if isinstance(output, dict) else None
        if loss is None or not torch.is_grad_enabled():
            return
        finite = torch.isfinite(loss.detach()).all()
        self._loss_finite = finite if self._loss_finite is None else self._loss_finite & finite

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        if self._trainer is not None:
            self._listen(self._trainer)
        if state.global_step:
            restore_state(self, state)
        else:  # a new training, though the state may have the counts of an earlier one
            self.skipped = self.in_a_row = 0
        self._logged = state.global_step, self.skipped
        self._statistics = {}
        for part in model.modules():
            if isinstance(part, _NormBase) and part.track_running_stats:
                for buffer in part.buffers(recurse=False):
                    self._statistics.setdefault(buffer.dtype, []).append(buffer)

    def _flat_statistics(self) -> dict[torch.dtype, torch.Tensor]:
        """A copy of all running statistics, flattened into one tensor per dtype."""
        return {
            dtype: torch.cat([buffer.flatten() for buffer in buffers]) for dtype, buffers in self._statistics.items()
        }

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._norm = self._loss_finite = None
        self._before = self._flat_statistics()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        *bad, too_large = largest(self._bad(args.device)).tolist()
        reasons = [reason for reason, found in zip(REASONS, bad, strict=True) if found]
        if too_large and not reasons:
            reasons = [f"the gradient norm {float(self._norm):.4g} is over skip_grad_norm = {self.max_norm:g}"]
        if not reasons:
            self.in_a_row = 0
            return
        for parameter in model.parameters():
            parameter.grad = None
        for dtype, buffers in self._statistics.items():
            parts = self._before[dtype].split([buffer.numel() for buffer in buffers])
            for buffer, before in zip(buffers, parts, strict=True):
                buffer.copy_(before.view_as(buffer))
        self.skipped += 1
        self.in_a_row += 1
        logger.warning("Step %d is skipped: %s.", state.global_step + 1, " and ".join(reasons))
        if self.in_a_row >= self.patience:
            raise RunError(self._advice(args, state, reasons))

    def _bad(self, device: torch.device) -> torch.Tensor:
        """Flags `(4,)`, 1 where this step is bad: loss, norm or statistics not finite, and a norm over the limit."""
        loss = torch.ones((), dtype=torch.bool) if self._loss_finite is None else self._loss_finite
        norm = torch.as_tensor(0.0 if self._norm is None else self._norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        statistics = [torch.isfinite(values).all() for values in self._flat_statistics().values()]
        good = (
            loss,
            torch.isfinite(norm),
            torch.stack(statistics).all() if statistics else torch.ones((), dtype=torch.bool),
            norm <= (float("inf") if self.max_norm is None else self.max_norm),
        )
        return 1 - torch.stack([flag.to(device) for flag in good]).int()

    def _advice(self, args: TrainingArguments, state: TrainerState, reasons: list[str]) -> str:
        changes = [f"--learning_rate {args.learning_rate / 3:.1g} (now {args.learning_rate:g})"]
        if args.fp16:
            changes.append("--fp16 false, with --bf16 true where the GPU has it (fp16 ends at 65504)")
        changes += ["a longer warm-up (--warmup_ratio 0.1)", "python -m hf_fer.data.check on the data"]
        return (
            f"{self.in_a_row} steps in a row were skipped, the last, {state.global_step + 1}, because "
            f"{' and '.join(reasons)}. Parameters and checkpoints are finite. Try, one by one: {'; '.join(changes)}; "
            "then resume with --resume_from_checkpoint true. --max_skipped_steps sets this limit."
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.stateful_callbacks[type(self).__name__] = self.state()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if "loss" not in logs:
            return
        steps, skipped = state.global_step - self._logged[0], self.skipped - self._logged[1]
        self._logged = state.global_step, self.skipped
        # The Trainer averages the finite losses and logs 0 if there are none.
        nothing = {"loss": float("nan")} if skipped == steps else {}
        add_to_log(state, logs, {**nothing, "skipped_steps": self.skipped})
