"""Explains errors that end a running training: out of memory, a full disk, a lost process."""

import errno
import re
import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.utils.memory import should_reduce_batch_size

from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.runtime.checkpoints import declared

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RunError(RuntimeError):
    """A run that started and cannot continue; the message says what to change."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the memory of a device ran out."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def in_evaluation(error: BaseException) -> bool:
    """Whether an error was raised in the Trainer's evaluation and not in a training step."""
    return any(frame.f_code.co_name == "evaluation_loop" for frame, _ in traceback.walk_tb(error.__traceback__))


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error or its cause is a write to a full disk; torch and safetensors hide the errno in their text."""
    if error is None:
        return False
    text = str(error)
    return (
        (isinstance(error, OSError) and error.errno in DISK_FULL)
        or any(int(code) in DISK_FULL for code in re.findall(r"os error (\d+)", text))
        or ("inline_container.cc" in text and "PytorchStreamReader" not in text)
        or is_disk_full(error.__cause__ or error.__context__)
    )


def is_peer_lost(error: BaseException) -> bool:
    """Whether another process of a distributed run was lost; gloo tells it only by the error's text."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError)
        and re.search(r"\bgloo\b|Connection (closed|reset) by peer", str(error)) is not None
    )


def last_checkpoint(args: TrainingArguments) -> str:
    """A sentence that names the last complete checkpoint."""
    whole = declared(args.output_dir)
    return f"The last good checkpoint is {whole[-1]}." if whole else "There is no checkpoint yet."


def unwritable(error: OSError) -> str | None:
    """Message for a write that a full or read-only disk refused outside `output_dir`; `None` for other errors."""
    if not (is_disk_full(error) or error.errno == errno.EROFS):
        return None
    return (
        f"{error.filename or 'A temporary file'} cannot be written ({error.strerror or error}). Free some space, or "
        "name folders on another disk: HF_HOME for caches, TMPDIR for temporary files, MPLCONFIGDIR for matplotlib, "
        "--output_dir for the run."
    )


@contextmanager
def explained(args: TrainingArguments, memory_hints: list[str], can_checkpoint: bool) -> Iterator[None]:
    """
    Replace errors of memory, disk and lost processes by a `RunError` with advice.

    Args:
        args: The run's arguments.
        memory_hints: The system's own settings to lower, the most effective first.
        can_checkpoint: Whether the model supports gradient checkpointing.

    Raises:
        RunError: memory ran out, the disk is full, or another process of the run was lost.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            advice = "; ".join(memory_advice(args, memory_hints, in_evaluation(error), can_checkpoint))
            raise RunError(f"Out of memory{_gpu_use()}. Try, one by one: {advice}.") from error
        if is_disk_full(error):
            written = getattr(error, "filename2", None) or getattr(error, "filename", None)  # a copy names both
            place = Path(written or args.output_dir).resolve()
            free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free // 2**20
            raise RunError(
                f"The disk is full: writing to {place} failed with {free} MiB free ({error}). "
                f"{last_checkpoint(args)} Free some space, or lower --save_total_limit, and resume with "
                "--resume_from_checkpoint true."
            ) from error
        if is_peer_lost(error):
            reason = " ".join(str(error).split())[:200]
            raise RunError(
                f"Another process of this run has ended, or its machine cannot be reached ({reason}). "
                f"{last_checkpoint(args)} Read the other process's message, and resume with --resume_from_checkpoint "
                "true."
            ) from error
        raise


def smaller_batch(args: TrainingArguments) -> tuple[int, int] | None:
    """A batch size of at most half, and the accumulation that keeps the effective batch size; `None` for size 1."""
    size = args.per_device_train_batch_size
    effective = size * args.gradient_accumulation_steps
    return next(((part, effective // part) for part in range(size // 2, 0, -1) if effective % part == 0), None)


def memory_advice(args: TrainingArguments, hints: list[str], evaluating: bool, can_checkpoint: bool) -> list[str]:
    """
    The next three settings to change when memory ran out: batch size, then those of the system, then general ones.

    Args:
        args: The run's arguments.
        hints: The system's own settings to lower, the most effective first.
        evaluating: Whether memory ran out in evaluation, which keeps no gradients.
        can_checkpoint: Whether the model supports gradient checkpointing.
    """
    advice = []
    smaller, size = smaller_batch(args), args.per_device_eval_batch_size
    if evaluating and size > 1:
        advice.append(f"--per_device_eval_batch_size {size // 2} (now {size})")
    elif smaller and not evaluating:
        advice.append(
            f"--per_device_train_batch_size {smaller[0]} --gradient_accumulation_steps {smaller[1]} "
            f"(now {args.per_device_train_batch_size} and {args.gradient_accumulation_steps})"
        )
    advice += hints
    if evaluating:
        advice.append(f"--eval_accumulation_steps 1 (now {args.eval_accumulation_steps})")
    elif can_checkpoint and not args.gradient_checkpointing:
        advice.append("--gradient_checkpointing true (now false)")
    if args.optim != "adafactor":
        advice.append(f"--optim adafactor (now {args.optim.value})")
    if not args.bf16:
        advice.append(f"--bf16 true (now false{', fp16' if args.fp16 else ''})")
    return advice[:3]


def _gpu_use() -> str:
    if not torch.cuda.is_available():
        return ""
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties().total_memory
    return f" (peak {peak // 2**20} of {total // 2**20} MiB)"
