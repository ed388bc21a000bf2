"""Training-time augmentation of single images; its randomness is that of `hf_fer.data.augment.seeded`."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms import v2

from hf_fer.data.augment import Strengths


@dataclass(frozen=True)
class ImageAugmentation(Strengths):
    """
    Strengths of the augmentations; 0 switches one off.

    Args:
        horizontal_flip, vertical_flip: Probability that an image is mirrored left to right, and top to bottom.
        quarter_turns: Probability that an image is turned by a random number of right angles.
        rotation_degrees: Largest rotation either way; corners take the image's mean colour.
        crop_fraction: Largest fraction of the image's area that a random crop removes.
        brightness, contrast, saturation: Largest relative changes.
        hue: Largest shift of the hue, as a fraction of the colour circle, at most 0.5.
        noise: Standard deviation of white noise that is added to values in [0, 1].
    """

    MOST: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("horizontal_flip", "vertical_flip", "quarter_turns"), 1),
        "crop_fraction": 0.9,
        "hue": 0.5,
    }

    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    quarter_turns: float = 0.0
    rotation_degrees: float = 0.0
    crop_fraction: float = 0.2
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1
    hue: float = 0.0
    noise: float = 0.0


class ImageAugmenter:
    """Applies an `ImageAugmentation`; call it inside `seeded`."""

    def __init__(self, augmentation: ImageAugmentation):
        self.augmentation = augmentation
        a = augmentation
        self._flips = [v2.RandomHorizontalFlip(a.horizontal_flip), v2.RandomVerticalFlip(a.vertical_flip)]
        self._color = v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue)

    def __call__(self, image: Tensor) -> Tensor:
        """RGB `(3, height, width)` in [0, 1] -> the same; cropping and quarter turns change height and width."""
        a = self.augmentation
        for flip in self._flips:
            image = flip(image)
        if torch.rand(()) < a.quarter_turns:
            image = torch.rot90(image, int(torch.randint(4, ())), dims=(1, 2))
        if a.rotation_degrees:
            turn = v2.RandomRotation(
                a.rotation_degrees, v2.InterpolationMode.BILINEAR, fill=image.mean(dim=(1, 2)).tolist()
            )
            image = turn(image)
        if a.crop_fraction:
            top, left, height, width = v2.RandomResizedCrop.get_params(
                image, scale=[1 - a.crop_fraction, 1.0], ratio=[0.9, 1.1]
            )
            image = image[:, top : top + height, left : left + width]
        image = self._color(image)
        return (image + a.noise * torch.randn(image.shape)).clamp(0, 1) if a.noise else image
