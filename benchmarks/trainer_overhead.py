"""What run.py's Trainer, with everything that looks after it, costs over a bare loop on the same batches in memory:

python benchmarks/trainer_overhead.py RECIPE.json [--steps 50] [--rounds 5] [--json OUT] [--any_field value ...]

Both take the recipe's model, optimiser, schedule, clipping and precision. Nothing is evaluated or saved; the Trainer
logs as the recipe says. Rounds alternate; a step's time is the median over all of them, less the first five steps.
"""

import argparse
import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, get_scheduler, set_seed

from hf_fer.data.augment import EpochClock
from hf_fer.experiment.fit import train_watched
from hf_fer.experiment.one_run import load_data, make_trainer
from hf_fer.recipe.arguments import read_recipe
from hf_fer.task.base import Task
from hf_fer.task.find import parse_task

WARM_UP = 5
QUIET = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "train_sampling_strategy": "random",  # each "example" is a whole batch, whose length says nothing
    "report_to": "none",
    "disable_tqdm": True,
}


class Clock(TrainerCallback):
    """Notes when each step ends, the device's work included."""

    def __init__(self):
        self.ends: list[float] = []

    def tick(self) -> None:
        """The end of a step."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tick()

    def steps(self) -> list[float]:
        """Seconds of each step after the warm-up."""
        return [after - before for before, after in zip(self.ends[WARM_UP:], self.ends[WARM_UP + 1 :], strict=False)]


def through_the_trainer(trainer: Trainer, batches: list[dict[str, torch.Tensor]]) -> list[float]:
    """Step times of the run as run.py makes it, each "example" being a whole batch."""
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train_dataset, trainer.data_collator = batches, lambda examples: examples[0]
    train_watched(trainer, False)
    return clock.steps()


def bare_loop(trainer: Trainer, batches: list[dict[str, torch.Tensor]]) -> list[float]:
    """Step times of a loop that people write, with the optimiser that the recipe asks for."""
    args, model, clock = trainer.args, trainer.model, Clock()
    optimizer = trainer.create_optimizer()
    schedule = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(len(batches)),
        num_training_steps=len(batches),
    )
    half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    scaler = torch.amp.GradScaler(args.device.type, enabled=args.fp16)
    model.train()
    for batch in batches:
        inputs = {name: tensor.to(args.device) for name, tensor in batch.items()}
        with torch.autocast(args.device.type, half) if half else nullcontext():
            loss = model(**inputs).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
        clock.tick()
    return clock.steps()


def new_trainer(task: Task, data: Any, splits: Any, processor: Any, origin: Any) -> Trainer:
    """A fresh model with its Trainer."""
    set_seed(task.training_args.seed)
    return make_trainer(task, data, splits, task.build_model(data, processor), processor, origin, EpochClock())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write every figure here")
    args, fields = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.json")
        path.write_text(
            json.dumps({**read_recipe(args.recipe), **QUIET, "output_dir": folder, "max_steps": args.steps})
        )
        task = parse_task([str(path), *fields])
        data, origin = load_data(task)
        processor = task.build_processor(data)
        splits, collate = task.with_transforms(data, processor, EpochClock()), task.collator(processor)
        size = task.training_args.per_device_train_batch_size
        rows = [splits["train"][index] for index in range(min(len(splits["train"]), 4 * size))]
        few = [collate(rows[start : start + size]) for start in range(0, len(rows) - size + 1, size)]
        batches = [few[step % len(few)] for step in range(args.steps)]
        task.training_args.per_device_train_batch_size = 1
        times: dict[str, list[float]] = {"trainer": [], "bare": []}
        for _ in range(args.rounds):
            times["bare"] += bare_loop(new_trainer(task, data, splits, processor, origin), batches)
            times["trainer"] += through_the_trainer(new_trainer(task, data, splits, processor, origin), batches)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    for name, seconds in median.items():
        print(f"{name}: {1000 * seconds:.2f} ms per step of batch {size}, median of {len(times[name])} steps")
    print(f"ratio: {median['trainer'] / median['bare']:.3f}")
    if args.json:
        args.json.write_text(json.dumps({"batch": size, "median_s": median, "steps_s": times}, indent=2) + "\n")


if __name__ == "__main__":
    main()
