"""The patches that the ROI token compression kept, over the frames as the model sees them."""

from typing import Any

import numpy as np
from torch import Tensor

VISIBLE, VEIL = 0.25, 200
"""How much is left of patches that were not kept, and the grey that covers the rest, which suits dark faces too."""


def frames_seen(pixel_values: Tensor, image_processor: Any) -> np.ndarray:
    """
    Undo the normalisation of frames, which stay cropped and resized.

    Args:
        pixel_values: `(F, 3, height, width)`.
        image_processor: The image processor that made them.

    Returns:
        `uint8` RGB `(F, height, width, 3)`.
    """
    pixels = pixel_values.detach().float().cpu().numpy().transpose(0, 2, 3, 1)
    if image_processor.do_normalize:
        pixels = pixels * np.float32(image_processor.image_std) + np.float32(image_processor.image_mean)
    if image_processor.do_rescale:
        pixels = pixels / image_processor.rescale_factor
    return pixels.round().clip(0, 255).astype(np.uint8)


def patch_grids(kept: Tensor, size: tuple[int, int], patch_size: int) -> np.ndarray:
    """
    Indices of kept patches as grids.

    Args:
        kept: `(F, K)`, as the model's `kept_patches` for one clip.
        size: Height and width of the frames, in pixels.
        patch_size: Side of a patch, in pixels.

    Returns:
        `bool (F, rows, columns)`, true where a patch was kept.
    """
    rows, columns = (side // patch_size for side in size)
    grids = np.zeros((len(kept), rows * columns), bool)
    np.put_along_axis(grids, kept.cpu().numpy(), True, axis=1)
    return grids.reshape(-1, rows, columns)


def fade(frame: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """
    Cover the patches of a frame that were not kept with a grey veil.

    Args:
        frame: `uint8` RGB `(height, width, 3)`.
        kept: `bool (rows, columns)`; pixels beyond the last whole patch belong to no patch and are covered.
    """
    height, width = frame.shape[:2]
    side = height // kept.shape[0]
    weights = np.full((height, width, 1), VISIBLE, np.float32)
    mask = np.kron(kept, np.ones((side, side), bool))
    weights[: mask.shape[0], : mask.shape[1]][mask] = 1
    return (weights * frame + (1 - weights) * VEIL).round().astype(np.uint8)


__all__ = ["fade", "frames_seen", "patch_grids"]
