"""SIGTERM and Ctrl-C end a run after the current step, with a checkpoint."""

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.runtime.checkpoints import checkpoint_folder
from hf_fer.runtime.processes import largest

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
IMPATIENT = 2.0
"""Seconds after which a second Ctrl-C stops immediately; launchers deliver the first one twice."""


class Interrupted(Exception):
    """A signal ended the run after a checkpoint; `exit_status` is 143 for SIGTERM and 130 for Ctrl-C."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.exit_status = 128 + signum


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Outside training, let SIGTERM end the process with status 143 after its clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_workers() -> None:
    """
    Kill the data loader workers that still run when the process ends.

    Workers ignore SIGTERM, which multiprocessing would send them before it waits for them, forever. Most workers have
    ended by then, except those of a Trainer that is still referenced.
    """
    workers = [child for child in multiprocessing.active_children() if child.daemon]
    if workers:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error when a worker dies
    for worker in workers:
        worker.kill()


def end_loader_workers(trainer: Trainer) -> None:
    """
    End the persistent workers of a Trainer's data loaders; a loader that is used again starts new ones.

    If the garbage collector finds the loaders, which are in a reference cycle, their queues are closed before the
    workers are told to end. PyTorch then waits 5 s for each worker and, as workers ignore SIGTERM, another 5 s.
    """
    for loader in trainer.accelerator._dataloaders:
        if iterator := getattr(loader, "_iterator", None):
            iterator._shutdown_workers()
            getattr(loader, "base_dataloader", loader)._iterator = None


class StopOnSignal(TrainerCallback):
    """
    Finishes the step, saves a checkpoint and raises `Interrupted` in all processes when one of them gets a signal.

    The checkpoint has a state that an uninterrupted run passes through, too: at the end of an epoch it is saved after
    the evaluation that is due there, not before. Add this callback after all others, and use
    `with stop.listening()` around `trainer.train`.
    """

    def __init__(self):
        self.signum: int | None = None
        self._since = 0.0
        self._process = os.getpid()
        self._epoch_ended = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record signals instead of being ended by them; outside the main thread this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        atexit.unregister(end_workers)
        atexit.register(end_workers)  # registered last, it runs before the handler of multiprocessing
        before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        try:
            yield
        finally:
            self._shelter_workers(False)
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data loader's worker, forked with this handler
            return
        if self.signum is None:
            self.signum, self._since = signum, time.monotonic()
            logger.warning("%s: saving a checkpoint after this step.", signal.Signals(signum).name)
        elif signum == signal.SIGINT and time.monotonic() - self._since > IMPATIENT:
            raise KeyboardInterrupt

    @staticmethod
    def _shelter_workers(shelter: bool) -> None:
        """
        Block SIGTERM while data loader workers are forked, so that they inherit the blocked signal and survive it.

        Schedulers send the signal to every process of a job, and a step fails if one of its workers dies.
        """
        if threading.current_thread() is threading.main_thread():
            signal.pthread_sigmask(signal.SIG_BLOCK if shelter else signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _asked(self, args: TrainingArguments) -> int:
        """Number of the signal that any process of the run got, or 0."""
        if args.world_size == 1:
            return self.signum or 0
        return int(largest(torch.tensor(self.signum or 0, device=args.device)))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._epoch_ended = False
        self._shelter_workers(True)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._shelter_workers(False)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._shelter_workers(False)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._asked(args) and not float(state.epoch).is_integer():
            control.should_save = True
        self._shelter_workers(control.should_evaluate)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._epoch_ended = True
        if self._asked(args):
            control.should_save = True
        self._shelter_workers(control.should_evaluate)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        signum = self._asked(args)
        if signum and (self._epoch_ended or not float(state.epoch).is_integer()):
            folder = checkpoint_folder(args.output_dir, state.global_step)
            raise Interrupted(
                signum,
                f"stopped after step {state.global_step}, {folder} is saved. Resume by --resume_from_checkpoint true.",
            )
