"""Dry run: shows the recipe, data and model of a run and an estimate of its memory, without training."""

import json
from typing import Any

import pandas as pd
import torch
from datasets import DatasetDict
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel

from hf_fer.data.loading import LoadedData
from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.reporting.report import MIB, counts_table, markdown_table, parameter_table
from hf_fer.runtime.own_batches import Batches, batches_of
from hf_fer.task.base import Task


def saved_activations(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> int:
    """
    Bytes that autograd keeps for the backward pass of one batch, found with fake tensors and without computation.

    Parameters are not counted; a tensor that is saved twice is counted once.
    """
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # A transposed weight is a view of a parameter, and needs no memory.
        if not isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter):
            storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**{name: fake.from_tensor(tensor) for name, tensor in batch.items()})
    return sum(storage.nbytes() for storage in storages.values())


def estimate_memory(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], batch_size: int, half_precision: bool
) -> dict[str, float]:
    """
    Estimate the peak training memory in MiB.

    The estimate has weights and gradients in fp32, two Adam moments per trainable parameter, and the activations of
    one micro-batch scaled from `batch`. With fp16 or bf16 the activations are halved, and a copy of the weights for
    autocast is added. Temporary tensors of frozen parts, the allocator, cuDNN and the data loader are not included.

    Args:
        model: The model, on any device; nothing is computed.
        batch: A collated batch of any size.
        batch_size: Examples per device and step.
        half_precision: Whether autocast is on.

    Returns:
        `weights`, `gradients`, `optimizer`, `activations`, with autocast `half-precision weights`, and `total`.
    """
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    trainable = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    size = len(batch["labels"])
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    activations = saved_activations(model.train(), inputs) * batch_size / size / (2 if half_precision else 1)
    parts = {"weights": weights, "gradients": trainable, "optimizer": 2 * trainable, "activations": activations}
    if half_precision:
        parts["half-precision weights"] = sum(parameter.nbytes for parameter in model.parameters()) / 2
    return {name: value / MIB for name, value in {**parts, "total": sum(parts.values())}.items()}


def batch_line(args: TrainingArguments, own: Batches | None) -> str:
    """A sentence about the size of a batch."""
    steps, processes = args.gradient_accumulation_steps, args.world_size
    size = own or args.per_device_train_batch_size
    sizes = f"Batch {size} x accumulation {steps} x {processes} processes"
    if own:
        return f"{sizes}, {len(own)} batches an epoch."
    return f"{sizes} = effective batch size {size * steps * processes}."


def describe(task: Task, data: LoadedData, splits: DatasetDict, model: PreTrainedModel, processor: Any) -> str:
    """The page that `--dry_run true` prints."""
    args = task.training_args
    counts = counts_table(data.counts())
    if data.labels:
        counts.loc[len(counts)] = ["total", *counts.iloc[:, 1:].sum()]
    parameters = parameter_table(model)
    split = splits["train"] if "train" in splits else next(iter(splits.values()))
    own = batches_of(split)
    rows = own.largest() if own else range(args.per_device_train_batch_size)
    batch = task.collator(processor)([split[index] for index in rows[: min(2, len(split))]])
    memory = estimate_memory(model, batch, len(rows), args.fp16 or args.bf16)
    lines = [
        "# Recipe",
        json.dumps(task.recipe, indent=2, default=str),
        f"# Data, protocol {data.protocol}",
        markdown_table(counts),
        *(f"No {split} split: {reason}." for split, reason in data.absent.items()),
        *data.notes,
        f"Skipped examples: {len(data.skipped)}",
        *(f"  {entry['path']}: {entry['reason']}" for entry in data.skipped[:20]),
        *(["# Caches", *caches.plan(model)] if (caches := task.caches(data, processor)) else []),
        "# Parameters",
        markdown_table(parameters),
        "# Memory per device, estimated (MiB)",
        markdown_table(pd.DataFrame({"part": memory.keys(), "MiB": [round(value) for value in memory.values()]})),
        f"{batch_line(args, own)} Nothing was trained.",
    ]
    return "\n\n".join(lines)
