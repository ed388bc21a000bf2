"""Exports csr: pixels to maps and similarities, from which corrections by a person are computed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Pipeline, PreTrainedModel

from hf_fer.metrics.classification import NAMES
from hf_fer.task.export import ExportedModel, Exporter

from ..modeling_csr import CsrOutput
from ..reasoning_csr import ConceptReasoning


class ExportedCsr(ConceptReasoning, ExportedModel):
    """Stand-in for an exported model; its classifier weights are kept, so that similarities can be corrected."""

    def __init__(self, *args: Any, weights: dict[str, Tensor], **kwargs: Any):
        super().__init__(*args, weights=weights, **kwargs)
        classes, places = weights["weight"].shape
        self.classifier = nn.Linear(places, classes)
        self.classifier.load_state_dict(weights)
        self.classifier.requires_grad_(False)


class ImageExporter(Exporter):
    """Images of the processor's size to maps, similarities and logits."""

    pipeline_task = "concept-image-classification"
    output_class = CsrOutput
    free_axes = {"pixel_values": ()}
    metrics = dict.fromkeys(NAMES, False)
    stand_in = ExportedCsr

    @classmethod
    def made_up(cls, pipe: Pipeline, number: int, draw: torch.Generator) -> np.ndarray:
        """An image of noise."""
        size = (64 + 16 * number, 64, 3)
        return torch.randint(256, size, generator=draw, dtype=torch.uint8).numpy()

    @classmethod
    def kept_weights(cls, model: PreTrainedModel) -> dict[str, Tensor]:
        return {name: value.float().contiguous() for name, value in model.classifier.state_dict().items()}
