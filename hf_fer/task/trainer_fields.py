"""Checks of the stock Trainer's fields that it would only refuse after data and model have loaded, or not at all."""

from typing import TYPE_CHECKING

import torch
from transformers import Trainer, get_scheduler
from transformers.utils import is_liger_kernel_available

from hf_fer.recipe.arguments import RecipeError

if TYPE_CHECKING:
    from hf_fer.recipe.arguments import TrainingArguments

NEED_A_MODEL = ("galore", "apollo", "lomo")
"""Parts of the names of optimizers whose settings are checked against the model's layers."""


def check_trainer_fields(args: "TrainingArguments") -> None:
    """
    Check that the run can be scored, and that optimizer and schedule can be made.

    Raises:
        RecipeError: a field takes the labels or predictions from the metrics, a package is not installed, or settings
            of the optimizer or schedule are not valid.
    """
    if args.label_names is not None:
        raise RecipeError("label_names is set by the system, whose metrics read its own labels; leave it out.")
    for name in ("prediction_loss_only", "batch_eval_metrics"):
        if getattr(args, name):
            raise RecipeError(f"{name} must stay false: metrics are computed from all predictions of a split.")
    if not args.do_train:
        return
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise RecipeError("use_liger_kernel needs liger-kernel, which is not installed; install it, or leave it out.")
    _check_optimizer(args)
    _check_schedule(args)


def _check_optimizer(args: "TrainingArguments") -> None:
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, torch.nn.Identity())
    except ImportError as error:
        raise RecipeError(f"optim: {error}") from error
    except (ValueError, TypeError) as error:
        if not any(name in args.optim for name in NEED_A_MODEL):
            given = f"optim_args {args.optim_args!r}" if args.optim_args else f"optim {str(args.optim)!r}"
            raise RecipeError(f"{given}: {error}; write optim_args as name=value,name=value.") from error


def _check_schedule(args: "TrainingArguments") -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name, own = args.lr_scheduler_type, args.lr_scheduler_kwargs
    try:
        get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=10, scheduler_specific_kwargs=own)
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"lr_scheduler_type {name.value!r} with lr_scheduler_kwargs {own!r}: {error}") from error
