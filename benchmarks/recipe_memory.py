"""Memory of each RAVDESS recipe with full-size random weights, reckoned and measured.

python benchmarks/recipe_memory.py [--recipes ravdess_4gb ...] [--steps 20]

Nothing is downloaded: the parts that a recipe takes from a checkpoint get that checkpoint's shape and random weights.
Clips are random tensors of 4 s at the recipe's frames and size; reckoned is what `--dry_run true` prints. Measured is,
at the recipe's batch size,

- with a GPU `torch.cuda.max_memory_allocated` over forward, backward and AdamW steps under the recipe's fp16 or bf16,
  losses and weights checked to be finite;
- without one the most bytes that tensors took on the CPU at one time, as torch's profiler counts them, over two
  micro-batches of the second step, under bf16 where the recipe has fp16 or bf16. What a GPU's allocator, workspaces
  and context add is not in it.
"""

import argparse
import contextlib
import gc
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel, set_seed

from hf_fer.experiment.dry_run import estimate_memory
from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification
from hf_fer.models.multimodal_fer.backbones_multimodal_fer import PARTS, first_layers
from hf_fer.models.multimodal_fer.configuration_multimodal_fer import PRESETS
from hf_fer.reporting.report import MIB, markdown_table
from hf_fer.task.base import Task
from hf_fer.task.find import parse_task
from hf_fer.task.settings import adapted

RECIPES = Path(__file__).parent.parent / "training_args"
MEL_FRAMES = 400
# Shapes of the checkpoints that recipes name, from their published configurations.
SHAPES: dict[str, dict[str, Any]] = {
    "google/siglip2-base-patch16-224": {},
    "LiquidAI/LFM2-350M": PRESETS["full"]["lfm2_config"],
}


# What the composite asks of a part whatever its checkpoint.
DEFAULTS = {
    "audio": {"layerdrop": 0.0},
    "vision": {"vision_use_head": False},
    "fusion": {"vocab_size": 1, "use_cache": False, "bos_token_id": None, "eos_token_id": None},
}


def build(task: Task) -> PreTrainedModel:
    """The recipe's model with random weights of full size, frozen and adapted as the recipe says."""
    args, data = task.model_args, task.data_args
    fields = {**args.config_overrides, "modalities": data.modalities, "num_frames": data.num_frames}
    size = "light" if args.model_name_or_path else args.model_size
    if data.visual_features:
        fields["visual_feature_size"] = 35
    for part, name in args.backbones.items():
        field, config_class, _, _ = PARTS[part]
        shape = dict(SHAPES[name])
        if part == "fusion" and args.fusion_num_layers:
            shape |= first_layers(config_class(**shape), args.fusion_num_layers)
            shape.pop("full_attn_idxs", None)
        fields[field] = config_class(**{**DEFAULTS[part], **shape})
    if not args.backbones.get("vision"):
        fields["vision_config"] = {"image_size": data.image_size, **fields.get("vision_config", {})}
    model = MultimodalFerForEmotionClassification(MultimodalFerConfig.from_preset(size, **fields))
    model.freeze(args.freeze or [])
    if task.training_args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return adapted(task, model)


def make_batch(task: Task, size: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Random clips as the recipe's model takes them."""
    data, batch = task.data_args, {}
    if "audio" in data.modalities:
        batch["input_features"] = torch.randn(size, MEL_FRAMES, 80, device=device)
        batch["attention_mask"] = torch.ones(size, MEL_FRAMES, dtype=torch.long, device=device)
    if "video" in data.modalities:
        frames = (size, data.num_frames)
        pixels = (*frames, 3, data.image_size, data.image_size)
        named = ("visual_features", (*frames, 1, 35)) if data.visual_features else ("pixel_values", pixels)
        batch[named[0]] = torch.randn(*named[1], device=device)
        batch["frame_mask"] = torch.ones(frames, dtype=torch.long, device=device)
    return {**batch, "labels": torch.arange(size, device=device) % 8}


def measure(task: Task, steps: int) -> dict[str, Any]:
    """Peak memory in MiB, clips per second and whether all stayed finite, on the GPU."""
    args = task.training_args
    precision = "fp16" if args.fp16 else "bf16" if args.bf16 else "no"
    accelerator = Accelerator(mixed_precision=precision)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = build(task)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model, optimizer = accelerator.prepare(model.train(), torch.optim.AdamW(trained, lr=1e-5))
    finite, start = True, 0.0
    for step in range(steps + 2):
        if step == 2:  # the first steps choose kernels
            torch.cuda.synchronize()
            start = time.perf_counter()
        for _ in range(args.gradient_accumulation_steps):
            batch = make_batch(task, args.per_device_train_batch_size, accelerator.device)
            loss = model(**batch).loss
            accelerator.backward(loss / args.gradient_accumulation_steps)
            finite &= bool(torch.isfinite(loss))
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    finite &= all(bool(torch.isfinite(parameter).all()) for parameter in trained)
    clips = steps * args.gradient_accumulation_steps * args.per_device_train_batch_size
    peak = torch.cuda.max_memory_allocated() / MIB
    accelerator.free_memory()
    return {"measured MiB": round(peak), "clips/s": round(clips / seconds, 1), "finite": finite}


def uses_half(task: Task) -> bool:
    """Whether the recipe asks for fp16 or bf16, whatever this machine has."""
    return bool(task.recipe.get("fp16") or task.recipe.get("bf16"))


def measure_on_cpu(task: Task) -> dict[str, Any]:
    """Peak of the bytes that tensors take, in MiB, as weights, gradients, moments and activations are all there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = build(task).train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5)

        def micro_batch(size: int) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=uses_half(task)):
                loss = model(**make_batch(task, size, torch.device("cpu"))).loss
            loss.backward()

        micro_batch(2)
        optimizer.step()  # makes the moments
        optimizer.zero_grad()
        for _ in range(min(2, task.training_args.gradient_accumulation_steps)):
            micro_batch(task.training_args.per_device_train_batch_size)
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    peak = max(event["args"]["Total Allocated"] for event in events if event.get("name") == "[memory]")
    return {"measured MiB, CPU": round(peak / MIB)}


def row(name: str, steps: int) -> dict[str, Any]:
    """One line of the table."""
    set_seed(0)
    with contextlib.redirect_stdout(None):
        task = parse_task([str(RECIPES / f"{name}.json"), "--report_to", "none"])
    args, model = task.training_args, build(task)
    batch = make_batch(task, 2, torch.device("cpu"))
    reckoned = estimate_memory(model, batch, args.per_device_train_batch_size, uses_half(task))
    facts = {
        "recipe": name,
        "batch": f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps}",
        "parameters M": round(sum(p.numel() for p in model.parameters()) / 1e6, 1),
        "trained M": round(sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6, 1),
        "activations MiB": round(reckoned["activations"]),
        "reckoned MiB": round(reckoned["total"]),
    }
    del model
    gc.collect()  # fake tensors leave cycles behind
    return facts | (measure(task, steps) if torch.cuda.is_available() else measure_on_cpu(task))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=sorted(path.stem for path in RECIPES.glob("ravdess*.json")))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    # A process for each: what one leaves behind is not in the next one's memory.
    fresh = {"max_workers": 1, "max_tasks_per_child": 1, "mp_context": multiprocessing.get_context("spawn")}
    with ProcessPoolExecutor(**fresh) as pool:
        rows = [pool.submit(row, name, options.steps).result() for name in options.recipes]
    print(markdown_table(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
