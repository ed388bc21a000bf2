"""Memory that training by speech_to_text's recipes takes, with recordings of 15 s, estimated and measured on the CPU.

python benchmarks/speech_memory.py [--recipes speech_to_text_weak ...] [--measured speech_to_text_weak] [--seconds 15]

The models have random weights and 100 characters, the recordings are random features, and the micro-batch is the
recipe's. Estimated is what `--dry_run true` prints. Measured is the most bytes that tensors took at one time, as
torch's profiler counts them, over two micro-batches with optimiser states and gradients allocated, under bf16 where
the recipe has fp16 or bf16. What a GPU's allocator, workspaces and context add is in neither.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, set_seed

from hf_fer.experiment.dry_run import estimate_memory
from hf_fer.models.speech_to_text.train.model import MEL_BINS, new_model, prepare, preset_config
from hf_fer.reporting.report import MIB, markdown_table
from hf_fer.task.base import Task
from hf_fer.task.find import parse_task

RECIPES = Path(__file__).parent.parent / "training_args"
DEFAULT = ("speech_to_text_weak", "speech_to_text", "speech_to_text_4gb", "speech_to_text_strong")
VOCABULARY, CHARACTERS_PER_SECOND, FRAMES_PER_SECOND = 100, 14, 100


def build(task: Task) -> PreTrainedModel:
    """The recipe's model with random weights."""
    args, hop = task.model_args, task.data_args.sampling_rate // FRAMES_PER_SECOND
    config = preset_config(args.model_size, VOCABULARY, 0, hop, args.config_overrides, args.mel_bins)
    model = prepare(new_model(config, args.features))
    if task.training_args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def make_batch(size: int, seconds: float) -> dict[str, torch.Tensor]:
    """Random features and transcripts."""
    frames = round(seconds * FRAMES_PER_SECOND)
    return {
        "input_features": torch.randn(size, frames, MEL_BINS),
        "attention_mask": torch.ones(size, frames, dtype=torch.bool),
        "labels": torch.randint(1, VOCABULARY, (size, round(seconds * CHARACTERS_PER_SECOND))),
    }


def uses_half(task: Task) -> bool:
    """Whether the recipe asks for fp16 or bf16, whatever this machine has."""
    return bool(task.recipe.get("fp16") or task.recipe.get("bf16"))


def measured(task: Task, seconds: float) -> int:
    """Peak of the bytes that tensors take, in MiB."""
    size = task.training_args.per_device_train_batch_size
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build(task).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        for number in (2, size, size):
            with torch.autocast("cpu", torch.bfloat16, enabled=uses_half(task)):
                loss = model(**make_batch(number, seconds)).loss
            loss.backward()
            if number == 2:
                optimizer.step()  # makes the moments
                optimizer.zero_grad()
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return round(max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]") / MIB)


def row(name: str, seconds: float, measure: bool) -> dict[str, Any]:
    """One line of the table."""
    set_seed(0)
    with contextlib.redirect_stdout(None):
        task = parse_task([str(RECIPES / f"{name}.json"), "--report_to", "none"])
    args, model = task.training_args, build(task)
    estimate = estimate_memory(model, make_batch(2, seconds), args.per_device_train_batch_size, uses_half(task))
    facts = {
        "recipe": name,
        "batch": f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps}",
        "parameters, M": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "activations, MiB": round(estimate["activations"]),
        "estimated, MiB": round(estimate["total"]),
    }
    del model
    gc.collect()  # fake tensors leave cycles behind
    return facts | {"measured, MiB": measured(task, seconds) if measure else ""}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=DEFAULT)
    parser.add_argument("--measured", nargs="*", default=DEFAULT, help="recipes that are also measured")
    parser.add_argument("--seconds", type=float, default=15.0)
    args = parser.parse_args()
    # A process for each: what one leaves behind is not in the next one's memory.
    fresh = {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("spawn")}
    with ProcessPoolExecutor(**fresh) as pool:
        rows = [pool.submit(row, name, args.seconds, name in args.measured).result() for name in args.recipes]
    print(markdown_table(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
