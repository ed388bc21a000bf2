"""A concept map laid over its image, for people to look at."""

import numpy as np
from PIL import Image

from .decoding_csr import MAX_PIXELS, ImageInput, as_rgb, stretch


def overlay(
    image: ImageInput,
    concept_map: np.ndarray,
    opacity: float = 0.7,
    color_map: str = "viridis",
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """
    A concept map in colour over its image.

    The map is enlarged to the image's size by bilinear interpolation and scaled from its lowest to its highest value.
    Colour and opacity grow with the value: the lowest shows the bare image, the highest the end of the colour map. A
    map with one value everywhere, such as a map of a single cell, leaves the image unchanged.

    Args:
        image: A file (DICOM too), Pillow image or array, as the pipeline takes it.
        concept_map: `(H, W)`, such as `answer["concepts"][0]["map"]`.
        opacity: Opacity of the highest value, from 0 to 1.
        color_map: Name of a colour map of matplotlib.
        max_pixels: Limit of the image's width times height.

    Returns:
        RGB, of the image's size.

    Raises:
        UnusableImageError: the file cannot be used.
        ValueError: the map is empty, not finite or of another shape, the opacity is out of range, the colour map is
            unknown, or the array is not an image.
    """
    values = np.asarray(concept_map, dtype=np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"concept_map needs finite values of shape (H, W), got shape {values.shape}: {values}.")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must be from 0 to 1, got {opacity}.")
    from matplotlib import colormaps  # here, because drawing is rare and the import slow

    if color_map not in colormaps:
        raise ValueError(f"color_map must be the name of a colour map of matplotlib, got {color_map!r}.")
    pixels = as_rgb(image, max_pixels)
    height, width = pixels.shape[:2]
    heat = np.asarray(Image.fromarray(stretch(values)).resize((width, height), Image.Resampling.BILINEAR))
    colors = colormaps[color_map](heat, bytes=True)[..., :3]
    weight = opacity * heat[..., None]
    return Image.fromarray((255 * (1 - weight) * pixels + weight * colors).round().astype(np.uint8))


__all__ = ["overlay"]
