"""Runs run.py with injected faults, for `torchrun --nproc_per_node 2` in test_distributed.py:

two_processes.py RECIPE.json [fields] --bad_clip INDEX [--stop_at STEP] [--kill_at STEP]

The clip with index INDEX gets NaN features. The second process alone gets SIGTERM or SIGKILL at step STEP.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[2]))

from hf_fer.models.multimodal_fer.train.clips import ClipTransform
from hf_fer.models.multimodal_fer.train.task import MultimodalFerTask
from hf_fer.run import main


def spoil(index: int) -> None:
    """Make the features of one clip NaN."""
    example = ClipTransform.example

    def spoilt(transform: ClipTransform, row: dict) -> dict:
        features = example(transform, row)
        if row["index"] == index:
            features["input_features"] = torch.full_like(features["input_features"], float("nan"))
        return features

    ClipTransform.example = spoilt


class SignalAt(TrainerCallback):
    """Sends a signal to the second process at a step."""

    def __init__(self, step: int, signum: int):
        self.step = step
        self.signum = signum

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.process_index == 1:
            os.kill(os.getpid(), self.signum)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bad_clip", type=int, required=True)
    parser.add_argument("--stop_at", type=int)
    parser.add_argument("--kill_at", type=int)
    accidents, argv = parser.parse_known_args()
    spoil(accidents.bad_clip)
    steps = {signal.SIGTERM: accidents.stop_at, signal.SIGKILL: accidents.kill_at}
    signals = [SignalAt(step, signum) for signum, step in steps.items() if step is not None]
    own = MultimodalFerTask.callbacks
    MultimodalFerTask.callbacks = lambda task: [*own(task), *signals]
    main(argv)
