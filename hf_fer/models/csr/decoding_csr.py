"""Images of one file as arrays: PNG, JPEG and the like by Pillow, DICOM by pydicom.

It sits beside the processor, and not under `hf_fer/data`, because a model pushed to the Hub must decode its own
input on a machine without hf_fer.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from PIL import Image, ImageOps
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

ImageInput = str | Path | Image.Image | np.ndarray

DICOM_SUFFIXES = (".dcm", ".dicom")
IMAGE_SUFFIXES = (*DICOM_SUFFIXES, ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


class UnusableImageError(ValueError):
    """A file that cannot be used, with the reason in words a person can act on."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class ImageFacts(NamedTuple):
    """What a file's header says: upright size in pixels, and bits of a sample."""

    width: int
    height: int
    bits: int


def is_dicom(path: Path) -> bool:
    """By its ending, or, for a file without one, by the DICM mark after the preamble."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    if path.suffix:
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def check_file(path: str | Path) -> Path:
    """The path; raises UnusableImageError where there is no file, or an empty one."""
    path = Path(path)
    if not path.is_file():
        raise UnusableImageError(path, "file not found")
    if path.stat().st_size == 0:
        raise UnusableImageError(path, "file is empty (0 bytes)")
    return path


def stretch(values: np.ndarray) -> np.ndarray:
    """Values from their minimum to their maximum -> `float32` in [0, 1]; zeros where they are all the same."""
    values = values.astype(np.float32)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def open_picture(path: Path) -> Image.Image:
    """A Pillow image, its pixels not yet read; raises UnusableImageError where it is not an image."""
    try:
        return Image.open(path)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnusableImageError(path, f"not readable as an image ({error})") from error


def load_picture(path: Path) -> np.ndarray:
    """
    A PNG, JPEG or other file of Pillow's, upright.

    Eight bits count from 0 to 255. More bits are stretched from the lowest to the highest value, because a file of
    16 does not say how many of them it uses.
    """
    with open_picture(path) as picture:
        try:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith(("I", "F")):
                return stretch(np.asarray(upright))
            return np.asarray(upright.convert("RGB"), dtype=np.float32) / 255
        except (OSError, SyntaxError, ValueError) as error:
            raise UnusableImageError(path, f"image does not decode ({error})") from error


def read_dicom(path: Path, **options: bool) -> pydicom.Dataset:
    """A DICOM data set; raises UnusableImageError where it is not one, or ends early."""
    try:
        return pydicom.dcmread(path, **options)
    except (InvalidDicomError, EOFError, OSError, ValueError, TypeError, KeyError) as error:
        raise UnusableImageError(path, f"not readable as DICOM, damaged or truncated ({error})") from error


def load_dicom(path: Path) -> np.ndarray:
    """
    A DICOM image as its modality shows it: modality LUT, the first VOI LUT or window, then the photometric
    interpretation (MONOCHROME1 is inverted). Without a window, from the lowest to the highest value.
    """
    data = read_dicom(path)
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise UnusableImageError(path, f"has {data.NumberOfFrames} frames; give one image per file")
    try:
        pixels = pixel_array(data)
    except (AttributeError, ValueError, EOFError, RuntimeError, NotImplementedError, KeyError, OSError) as error:
        raise UnusableImageError(
            path, f"DICOM pixels do not decode: truncated, or compressed in a way that is not installed ({error})"
        ) from error
    kind = data.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, data)
        return pixels.astype(np.float32)[..., :3] / np.iinfo(pixels.dtype).max
    if pixels.ndim == 3:
        return pixels.astype(np.float32) / (2**data.BitsStored - 1)
    shown = windowed(apply_modality_lut(pixels, data), data)
    return 1 - shown if kind == "MONOCHROME1" else shown


def windowed(values: np.ndarray, data: pydicom.Dataset) -> np.ndarray:
    """Values after the VOI LUT or window of a data set, `float32` in [0, 1] over the window's whole output range."""
    if "VOILUTSequence" not in data and data.get("WindowWidth") is None:
        return stretch(values)
    # The ends of the output range are what values far outside the window come out as.
    far = np.array([np.iinfo(np.int32).min, np.iinfo(np.int32).max])
    low, high = apply_voi_lut(far, data).astype(np.float32)
    return ((apply_voi_lut(values, data) - low) / (high - low)).clip(0, 1).astype(np.float32)


def load_image(path: str | Path) -> np.ndarray:
    """
    Decode an image file.

    Args:
        path: PNG, JPEG or another format of Pillow's, or DICOM.

    Returns:
        `float32` RGB in [0, 1], shape `(height, width, 3)`; grey images have three equal channels.

    Raises:
        UnusableImageError: no such file, an empty, damaged or truncated one, or one with several frames.
    """
    path = check_file(path)
    image = load_dicom(path) if is_dicom(path) else load_picture(path)
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image


def as_rgb(image: ImageInput) -> np.ndarray:
    """
    A file, Pillow image or array as RGB.

    Args:
        image: Arrays are `(height, width)` or `(height, width, 3)`: `uint8`, floats in [0, 1], or other integers,
            which are stretched from their lowest to their highest value.

    Returns:
        `float32` in [0, 1], shape `(height, width, 3)`.

    Raises:
        UnusableImageError: the file cannot be used.
        ValueError: the array has another shape, or floats outside [0, 1].
    """
    if isinstance(image, str | Path):
        return load_image(image)
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(f"Image arrays are (height, width) or (height, width, 3), got shape {pixels.shape}.")
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / 255
    if not np.issubdtype(pixels.dtype, np.floating):
        return stretch(pixels)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError("Image arrays of floats must be in [0, 1].")
    return pixels.astype(np.float32)


def image_facts(path: str | Path) -> ImageFacts:
    """
    Size and bit depth from a file's header, without decoding its pixels.

    Raises:
        UnusableImageError: no such file, or a header that cannot be read.
    """
    path = check_file(path)
    if is_dicom(path):
        data = read_dicom(path, stop_before_pixels=True)
        return ImageFacts(int(data.Columns), int(data.Rows), int(data.BitsStored))
    with open_picture(path) as picture:
        width, height = picture.size
        sideways = picture.getexif().get(0x0112, 1) >= 5
        bits = 16 if picture.mode.startswith(("I", "F")) else 8
    return ImageFacts(height, width, bits) if sideways else ImageFacts(width, height, bits)


__all__ = [
    "IMAGE_SUFFIXES",
    "ImageFacts",
    "ImageInput",
    "UnusableImageError",
    "as_rgb",
    "image_facts",
    "load_image",
]
