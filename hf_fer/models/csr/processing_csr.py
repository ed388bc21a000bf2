"""Turns image files or arrays into the tensors of the CSR model."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from .decoding_csr import MAX_PIXELS, ImageInput, as_rgb


class CsrProcessor(ProcessorMixin):
    r"""
    Decodes, resizes and normalises images for [`CsrForImageClassification`].

    Args:
        image_processor ([`~transformers.ViTImageProcessor`]): Resizes and normalises. It is set to rescale pixels from
            0 to 255, because `pipeline("image-classification")` uses it alone.
        max_pixels (`int`, *optional*, defaults to 50,000,000): Files with more pixels are refused.

    Raises:
        ValueError: `max_pixels` is not positive.
    """

    tokenizer = SimpleNamespace(eos_token_id=None, bos_token_id=None, pad_token_id=None)
    """A stand-in: `Trainer(processing_class=...)` reads special tokens from the tokenizer of every processor."""

    def __init__(self, image_processor, max_pixels: int = MAX_PIXELS, **kwargs: Any):
        if not max_pixels > 0:
            raise ValueError(f"max_pixels must be positive, got {max_pixels}.")
        image_processor.do_rescale, image_processor.rescale_factor = True, 1 / 255
        super().__init__(image_processor)
        self.max_pixels = max_pixels

    def load_image(self, image: ImageInput) -> Tensor:
        """
        A file, Pillow image or array as RGB, `(3, height, width)` in [0, 1].

        A Pillow image gives the same result as its file. Arrays are `(height, width)` or `(height, width, 3)`:
        `uint8`, floats in [0, 1], or other integers, which are stretched from their lowest to their highest value.

        Raises:
            UnusableImageError: the file cannot be used.
            ValueError: the array has another shape, or floats outside [0, 1].
        """
        return torch.from_numpy(np.ascontiguousarray(as_rgb(image, self.max_pixels))).permute(2, 0, 1)

    def features(self, image: Tensor) -> Tensor:
        """RGB `(3, height, width)` in [0, 1] -> normalised pixels of the model's size."""
        options = {"return_tensors": "pt", "input_data_format": "channels_first", "do_rescale": False}
        return self.image_processor(image, **options)["pixel_values"][0]

    def __call__(self, images: ImageInput | Sequence[ImageInput], **kwargs: Any) -> BatchFeature:
        """
        Args:
            images: A file, Pillow image or array as in `load_image`, or a list of them.

        Returns:
            `pixel_values (B, 3, height, width)`.

        Raises:
            UnusableImageError: a file cannot be used.
            ValueError: no image is given, or an array has another shape or range.
        """
        given = list(images) if isinstance(images, list | tuple) else [images]
        if not given:
            raise ValueError("Give at least one image.")
        pixels = torch.stack([self.features(self.load_image(image)) for image in given])
        return BatchFeature({"pixel_values": pixels})

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that `__call__` returns."""
        return ["pixel_values"]


__all__ = ["CsrProcessor"]
