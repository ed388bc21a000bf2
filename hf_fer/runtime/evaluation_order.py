"""The order in which the stock Trainer evaluates examples."""

import numpy as np
import torch
from transformers.trainer_pt_utils import LengthGroupedSampler

from hf_fer.recipe.arguments import TrainingArguments


def evaluation_order(args: TrainingArguments, lengths: list[int]) -> np.ndarray:
    """
    The row of each prediction, `(rows,)`; `train_sampling_strategy: group_by_length` changes the order.

    Args:
        args: The Trainer's arguments.
        lengths: Column `length` of the evaluated data set.
    """
    if args.train_sampling_strategy != "group_by_length":
        return np.arange(len(lengths))
    generator = torch.Generator().manual_seed(args.seed if args.data_seed is None else args.data_seed)
    return np.array(list(LengthGroupedSampler(args.eval_batch_size, lengths=lengths, generator=generator)))
