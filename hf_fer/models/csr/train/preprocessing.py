"""
The settings by which images are decoded, resized and normalised.

One object holds them: a new model's processor is made from it, a checkpoint's is read into it, and the check of files
and its memory take their settings from it.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import ViTImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME

from hf_fer.task.base import Task
from hf_fer.task.settings import check_settled

from ..configuration_csr import TIMM
from ..decoding_csr import DECODER_VERSION, MAX_PIXELS
from ..processing_csr import CsrProcessor
from .arguments import CsrDataArguments, CsrModelArguments
from .backbones import timm_statistics


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """
    Settings of a recipe, with those that a checkpoint fixes.

    Args:
        image_size: Side of the images that the model sees, in pixels.
        image_mean, image_std: Mean and standard deviation of each channel; 0.5 without them.
        max_pixels: Images with more pixels are left out.
    """

    image_size: int = 224
    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(cls, task: Task) -> "ImageSettings":
        """
        The settings of a task.

        Raises:
            RecipeError: the recipe sets a field to another value than the checkpoint was trained with.
        """
        args, path = task.data_args, task.model_args.model_name_or_path
        if path is None:
            statistics = channel_statistics(task.model_args, args)
            return cls(args.image_size, **statistics, max_pixels=args.max_pixels or MAX_PIXELS)
        found = cls.of_processor(CsrProcessor.from_pretrained(path))
        check_settled(task, path, found.settled)
        return dataclasses.replace(found, max_pixels=args.max_pixels or found.max_pixels)

    @classmethod
    def of_processor(cls, processor: CsrProcessor) -> "ImageSettings":
        """The settings of a processor."""
        images = processor.image_processor
        return cls(images.size["height"], list(images.image_mean), list(images.image_std), processor.max_pixels)

    @property
    def settled(self) -> dict[str, Any]:
        """Fields of a recipe that a checkpoint fixes, with their values; a run may change `max_pixels`."""
        return {"image_size": self.image_size, "image_mean": self.image_mean, "image_std": self.image_std}

    @property
    def check_key(self) -> dict[str, Any]:
        """The settings that decide whether a file can be used: those of its decoding."""
        return {"decoder": f"csr {DECODER_VERSION}", "max_pixels": self.max_pixels}

    def processor(self) -> CsrProcessor:
        """A new model's processor."""
        given = {"image_mean": self.image_mean, "image_std": self.image_std}
        size = {"height": self.image_size, "width": self.image_size}
        images = ViTImageProcessor(size=size, **{name: value for name, value in given.items() if value})
        return CsrProcessor(images, self.max_pixels)


def make_processor(task: Task) -> CsrProcessor:
    """The checkpoint's processor, which has the settings that its model was trained with, or a new one."""
    settings, path = ImageSettings.of(task), task.model_args.model_name_or_path
    if path is None:
        return settings.processor()
    processor = CsrProcessor.from_pretrained(path)
    processor.max_pixels = settings.max_pixels
    return processor


def channel_statistics(model_args: CsrModelArguments, data_args: CsrDataArguments) -> dict[str, list[float]]:
    """`image_mean` and `image_std`: the recipe's, else those in the pretrained backbone's folder, else timm's."""
    found = {}
    if model_args.backbone_weights:
        weights = Path(model_args.backbone_weights)
        beside = (weights if weights.is_dir() else weights.parent) / IMAGE_PROCESSOR_NAME
        if beside.is_file():
            found = json.loads(beside.read_text(encoding="utf-8"))
        elif model_args.backbone.startswith(TIMM):
            found = timm_statistics(model_args.backbone)
    given = {"image_mean": data_args.image_mean, "image_std": data_args.image_std}
    chosen = {name: value or found.get(name) for name, value in given.items()}
    return {name: value for name, value in chosen.items() if value}
