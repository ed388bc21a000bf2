"""Collective operations of the processes of a distributed run, and synchronised BatchNorm."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from transformers import TrainingArguments


def largest(values: torch.Tensor) -> torch.Tensor:
    """Each value's maximum over the processes, the same in all of them; with NCCL, `values` are on the accelerator."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def share_statistics(model: nn.Module) -> None:
    """Copy the running statistics of the first process to all processes, in place."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    for layer in model.modules():
        if isinstance(layer, _NormBase) and layer.track_running_stats:
            for buffer in layer.buffers(recurse=False):
                dist.broadcast(buffer, src=0)


def in_processes(model: nn.Module, args: TrainingArguments) -> nn.Module:
    """The model for the processes of this run: with synchronised BatchNorm if several processes train on GPUs."""
    return synchronise_batch_norm(model) if args.world_size > 1 and args.device.type == "cuda" else model


def synchronise_batch_norm(model: nn.Module) -> nn.Module:
    """
    Convert BatchNorm layers that train to SyncBatchNorm, which computes statistics over all processes.

    Layers of frozen parts are not converted, because they normalise with their running statistics. Names and tensors
    of the state dict do not change, so that a checkpoint loads with or without the conversion.
    """
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, _BatchNorm) and any(value.requires_grad for value in layer.parameters()):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(layer))
    return model
