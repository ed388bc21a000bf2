"""The contract for exports: what a system declares about its model, and the stand-in that runs the exported graph."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Pipeline, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from hf_fer.task.systems import classes_by_pipeline

Runtime = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Computes an export's outputs from its inputs; both are tensors by name."""


@dataclass(frozen=True)
class TensorSpec:
    """
    Type and shape of an input of an export.

    Args:
        dtype: Name of the type, such as `float32`.
        shape: Sizes; `None` for an axis whose size is free.
    """

    dtype: str
    shape: Sequence[int | None]

    def cast(self, name: str, tensor: Tensor) -> Tensor:
        """Convert a tensor to the type of its specification; raises `ValueError` if the shape differs."""
        sizes = tuple(tensor.shape)
        fits = len(sizes) == len(self.shape) and all(
            known in (None, size) for known, size in zip(self.shape, sizes, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size is None else str(size) for size in self.shape)
            raise ValueError(f"{name} has the shape {sizes}, and this export takes ({wanted}).")
        return tensor.detach().to("cpu", getattr(torch, self.dtype)).contiguous()


class ExportedModel:
    """
    Stand-in for a model in its pipeline: same configuration, inputs and outputs, but another runtime.

    Args:
        config: Configuration of the model.
        path: Folder of the export.
        runtime: Computes the outputs.
        inputs: Name -> specification of each input, in the order of the model's `forward`.
        output_class: Class of the output of a call.
        weights: Weights from `Exporter.kept_weights`.
    """

    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(
        self,
        config: PretrainedConfig,
        path: str,
        runtime: Runtime,
        inputs: dict[str, TensorSpec],
        output_class: type[ModelOutput],
        weights: dict[str, Tensor],
    ):
        self.config = config
        self.name_or_path = path
        self.runtime = runtime
        self.inputs = inputs
        self.output_class = output_class

    def can_generate(self) -> bool:
        """False: none of these models generates text."""
        return False

    def __call__(self, *args: Tensor, **given: Tensor | None) -> ModelOutput:
        """
        Compute the outputs for inputs that the model's `forward` takes.

        Raises:
            ValueError: an input is missing, unknown or of another shape than the export takes.
        """
        found = {**dict(zip(self.inputs, args, strict=False)), **given}
        found = {name: tensor for name, tensor in found.items() if tensor is not None}
        if found.keys() != self.inputs.keys():
            raise ValueError(
                f"This export takes {', '.join(self.inputs)}, and got {', '.join(found)}. What an example lacks is "
                "zeros with a mask of zeros, as the processor pads it."
            )
        tensors = {name: spec.cast(name, found[name]) for name, spec in self.inputs.items()}
        with torch.inference_mode():
            return self.output_class(**self.runtime(tensors))


class Exporter(ABC):
    """
    Declares how a system's models are exported; a system's module `train/export.py` holds one subclass.

    Attributes:
        pipeline_task: Name of the registered pipeline.
        output_class: Class of the output of the model's `forward`.
        free_axes: Input -> axes of free size beside the batch axis; the inputs are in the order of the model's.
        metrics: Metric of `Predictor.score` that may not get worse -> whether lower is better.
        stand_in: Class of the stand-in for the model.
    """

    pipeline_task: ClassVar[str]
    output_class: ClassVar[type[ModelOutput]]
    free_axes: ClassVar[dict[str, tuple[int, ...]]]
    metrics: ClassVar[dict[str, bool]]
    stand_in: ClassVar[type[ExportedModel]] = ExportedModel

    @classmethod
    @abstractmethod
    def made_up(cls, pipe: Pipeline, number: int, draw: torch.Generator) -> Any:
        """
        Return a synthetic input of the pipeline, for comparisons without real examples.

        Args:
            pipe: Pipeline of the model.
            number: Number of the input; a higher one gives a longer input.
            draw: Generator of the noise.

        Raises:
            RecipeError: the pipeline can only be compared on real examples.
        """

    @classmethod
    def padding(cls, pipe: Pipeline) -> dict[str, float]:
        """Input -> padding value, for inputs that are not padded with 0."""
        return {}

    @classmethod
    def kept_weights(cls, model: PreTrainedModel) -> dict[str, Tensor]:
        """Small weights that the pipeline needs beside the graph."""
        return {}

    @classmethod
    def compared(
        cls, model: PreTrainedModel, batch: dict[str, Tensor], outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """
        The outputs of model or export for a batch, with those that no answer depends on set to 0.

        Args:
            model: The model.
            batch: Inputs, by name.
            outputs: Outputs, by name.
        """
        return outputs


def exporters() -> dict[str, type[Exporter]]:
    """Pipeline name -> exporter of the system, for the systems that have one."""
    return classes_by_pipeline("export", Exporter)
