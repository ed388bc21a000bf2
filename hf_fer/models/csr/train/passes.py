"""One pass of a model over a data set without a Trainer, shared among the processes."""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor

from ..modeling_csr import CsrForImageClassification


@torch.no_grad()
def look_over(
    model: CsrForImageClassification, images: Dataset, batch_size: int, look: Callable[[Tensor], list[Any]]
) -> list[tuple[int, Any]]:
    """
    What `look` finds in each image that can be read; each process looks at a share and gets the whole result.

    Args:
        model: On its device; in evaluation mode while it looks.
        images: Rows with the transform of evaluation, which gives `pixel_values`.
        batch_size: Images per forward pass.
        look: Gets pixels `(B, 3, height, width)` on the model's device, returns something for each image.

    Returns:
        Index of the image and what was found, in the order of the images.
    """
    state = PartialState()
    mine = range(state.process_index, len(images), state.num_processes)
    device, training = model.classifier.weight.device, model.training
    model.eval()
    found = []
    for start in range(0, len(mine), batch_size):
        indices = list(mine[start : start + batch_size])
        examples = [(index, images[index]["pixel_values"]) for index in indices]
        readable = [(index, pixels) for index, pixels in examples if pixels is not None]
        if readable:
            pixels = torch.stack([pixels for _, pixels in readable]).to(device)
            found += zip([index for index, _ in readable], look(pixels), strict=True)
    model.train(training)
    return sorted(gather_object(found), key=lambda entry: entry[0])
