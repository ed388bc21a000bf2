"""Decodes an image file into an array: PNG, JPEG and other formats with Pillow, DICOM with pydicom.

This module sits beside the processor, not under `hf_fer/data`, because a model pushed to the Hub must decode its own
input on a machine without hf_fer.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import pydicom

ImageInput = str | Path | Image.Image | np.ndarray

REDUCED_IMAGE = 254
"""TIFF tag NewSubfileType; its lowest bit marks a smaller version of another page."""
DICOM_SUFFIXES = (".dcm", ".dicom")
IMAGE_SUFFIXES = (*DICOM_SUFFIXES, ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

FIRST_ELEMENTS = (b"\x02\x00\x00\x00UL", b"\x02\x00\x01\x00OB", b"\x08\x00")
"""First bytes of a DICOM file without preamble: file meta information, or the first element of the data set."""


MAX_PIXELS = 50_000_000
"""Default limit of width times height; an image of this size takes 0.6 GB as three floats per pixel."""

DECODER_VERSION = 2
"""Part of the cache key of a file's check. Raise it when the decoder refuses or decodes files differently."""


class UnusableImageError(ValueError):
    """The file cannot be used; `reason` says why, in words a person can act on."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.path, self.reason)


class ImageFacts(NamedTuple):
    """Facts from a file's header: upright size in pixels, and bits per sample."""

    width: int
    height: int
    bits: int


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns any error of a decoder into UnusableImageError, with `what` and the decoder's message in brackets."""
    try:
        yield
    except UnusableImageError:
        raise
    except Exception as error:
        raise UnusableImageError(path, f"{what} ({type(error).__name__}: {error})") from error


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix or, if that is not of an image (a UID has dots, too), its first bytes."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return path.suffix.lower() in DICOM_SUFFIXES
    with reading(path, "not readable"), path.open("rb") as file:
        start = file.read(132)
    return start[128:] == b"DICM" or start.startswith(FIRST_ELEMENTS)


def read_dicom(path: Path, **options: Any) -> "pydicom.Dataset":
    """
    Read a DICOM data set, also from a file without preamble and file meta information, as old machines write it.

    Args:
        options: Keyword arguments of `pydicom.dcmread`.

    Raises:
        InvalidDicomError: the file has neither a preamble nor an image.
    """
    import pydicom  # here, because most images are not DICOM
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        return pydicom.dcmread(path, **options)
    except InvalidDicomError:
        data = pydicom.dcmread(path, force=True, **options)
        if "Rows" not in data or "Columns" not in data:
            raise
    if "TransferSyntaxUID" not in data.file_meta:
        implicit = data.original_encoding[0]
        data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return data


def check_file(path: str | Path) -> Path:
    """Returns the path; raises UnusableImageError where the file does not exist or is empty."""
    path = Path(path)
    if not os.path.isfile(path):  # False also for a name that is too long, where Path.is_file() raises
        raise UnusableImageError(path, "file not found")
    if path.stat().st_size == 0:
        raise UnusableImageError(path, "file is empty (0 bytes)")
    return path


def stretch(values: np.ndarray) -> np.ndarray:
    """
    Scale values to [0, 1] from their minimum to their maximum, as `float32`; zeros where all are equal.

    Raises:
        ValueError: some are not finite.
    """
    values = values.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        span = np.ptp(values)
    if not np.isfinite(span):
        raise ValueError("some values are not finite")
    return (values - values.min()) / span if span else np.zeros_like(values)


def picture_pixels(picture: Image.Image) -> np.ndarray:
    """
    A Pillow image, upright: `float32` in [0, 1], `(height, width, 3)`, or `(height, width)` of more than 8 bits.

    Values of 8 bits are divided by 255. Values of more bits are stretched from the lowest to the highest, because a
    file of 16 bits does not say how many of them it uses.
    """
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        return stretch(np.asarray(upright))
    return np.asarray(upright.convert("RGB"), dtype=np.float32) / 255


def open_picture(path: Path, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A Pillow image without its pixels read; raises UnusableImageError for other files and too many pixels."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        # Pillow's own limit would refuse images that max_pixels allows.
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        with reading(path, "not readable as an image"):
            picture = Image.open(path)
    except UnusableImageError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise UnusableImageError(
                path, too_many_pixels(f"it has over {2 * Image.MAX_IMAGE_PIXELS} pixels", max_pixels)
            ) from error
        raise
    check_pixels(path, *picture.size, max_pixels)
    return picture


def too_many_pixels(found: str, max_pixels: int) -> str:
    """The reason to refuse an image for its size."""
    return f"{found}, over max_pixels = {max_pixels}: make it smaller, or raise max_pixels"


def check_pixels(path: str | Path, width: int, height: int, max_pixels: int) -> None:
    """Raises UnusableImageError where a header states more than `max_pixels` pixels."""
    if width * height > max_pixels:
        raise UnusableImageError(path, too_many_pixels(f"it has {width} x {height} pixels", max_pixels))


def load_picture(path: Path, max_pixels: int) -> np.ndarray:
    """The pixels of a PNG, JPEG or another file that Pillow reads; see `picture_pixels`."""
    with open_picture(path, max_pixels) as picture, reading(path, "image does not decode"):
        check_frames(path, picture_count(picture))
        return picture_pixels(picture)


def picture_count(picture: Image.Image) -> int:
    """
    Pictures in a Pillow image: pages or frames of an animation.

    The small preview of a TIFF and what cameras add to a JPEG (MPO: depth, a second eye) do not count.
    """
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if frames == 1 or picture.format != "TIFF":
        return frames
    previews = 0
    for page in range(1, frames):
        picture.seek(page)
        previews += picture.tag_v2.get(REDUCED_IMAGE, 0) & 1
    picture.seek(0)
    return frames - previews


def check_frames(path: str | Path, frames: int) -> None:
    """Raises UnusableImageError where a file has several pictures."""
    if frames > 1:
        raise UnusableImageError(path, f"has {frames} frames; give one image per file")


def load_dicom(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """
    A DICOM image as its modality shows it.

    The modality LUT is applied, then the first VOI LUT or window, then the photometric interpretation (MONOCHROME1 is
    inverted). Without VOI LUT and window, values are stretched from the lowest to the highest.
    """
    with reading(path, "not readable as DICOM, damaged or truncated"):
        data = read_dicom(path)
        frames = int(data.get("NumberOfFrames") or 1)
    check_pixels(path, int(data.get("Columns") or 0), int(data.get("Rows") or 0), max_pixels)
    check_frames(path, frames)
    with reading(path, "DICOM pixels do not decode: truncated, or no decoder of their compression is installed"):
        return dicom_pixels(data)


def dicom_pixels(data: "pydicom.Dataset") -> np.ndarray:
    """Displayed values of a data set, `float32` in [0, 1]: `(height, width)`, or `(height, width, 3)` in colour."""
    from pydicom.pixels import apply_color_lut, pixel_array

    pixels, kind = pixel_array(data), data.PhotometricInterpretation
    if pixels.ndim > 2 and not (pixels.ndim == 3 and pixels.shape[-1] == data.SamplesPerPixel == 3):
        raise ValueError(f"Rows, Columns and SamplesPerPixel do not fit pixels of shape {pixels.shape}")
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, data)
        return pixels.astype(np.float32)[..., :3] / np.iinfo(pixels.dtype).max
    if pixels.ndim == 3:
        return pixels.astype(np.float32) / (2**data.BitsStored - 1)
    table = lookup_table(data, "ModalityLUTSequence")
    values = table.look_up(pixels) if table else rescaled(pixels, data)
    if not np.isfinite(values).all():
        raise ValueError("some values are not finite after the modality's rescaling")
    padding = padding_mask(pixels, data)
    shown = windowed(values, data, padding)
    return np.where(padding, np.float32(0), 1 - shown if kind == "MONOCHROME1" else shown)


def padding_mask(pixels: np.ndarray, data: "pydicom.Dataset") -> np.ndarray:
    """
    Where stored pixels are padding around the picture (DICOM PS3.3 C.7.5.1.1.2), as booleans.

    Padding is one value, or the range from it to `PixelPaddingRangeLimit`; both are read as signed if the pixels are.
    """
    ends = [first_number(data.get(name)) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return np.zeros(pixels.shape, bool)
    signed, span = data.PixelRepresentation == 1, 2**data.BitsAllocated
    ends = [end for end in ends if end is not None]
    ends = [end - span if end >= span // 2 else end for end in ends] if signed else [end % span for end in ends]
    return (pixels >= min(ends)) & (pixels <= max(ends))


def rescaled(pixels: np.ndarray, data: "pydicom.Dataset") -> np.ndarray:
    """Pixels times the modality's slope plus its intercept; a tag that is missing or empty changes nothing."""
    slope, intercept = (first_number(data.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    return pixels * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)


class LookupTable(NamedTuple):
    """A lookup table: `entries` for the values from `first` on; values outside get the first or the last entry."""

    entries: np.ndarray
    first: int

    def look_up(self, values: np.ndarray) -> np.ndarray:
        """The entry of each value."""
        whole = values if np.issubdtype(values.dtype, np.integer) else np.rint(values)
        return self.entries[np.clip(whole.astype(np.int64) - self.first, 0, len(self.entries) - 1)]


def lookup_table(data: "pydicom.Dataset", name: str) -> LookupTable | None:
    """
    The first lookup table of a sequence, or `None` where it lacks a descriptor or data.

    pydicom's own functions index with the type of the entries or of the pixels. It wraps around where it has too few
    bits for the table's length, or where the first value is negative.

    Raises:
        ValueError: there are fewer entries than the descriptor says.
    """
    item = (data.get(name) or [{}])[0]
    descriptor, content = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or content is None:
        return None
    # 0 stands for 65536, and a signed descriptor has its upper half as negative numbers.
    count, first = int(descriptor[0]) % 2**16 or 2**16, int(descriptor[1])
    if isinstance(content, bytes):
        order = ">" if data.original_encoding[1] is False else "<"
        entries = np.frombuffer(content, np.uint8 if len(content) < 2 * count else f"{order}u2")
    else:
        entries = np.atleast_1d(np.asarray(content, dtype=np.int64))
    if len(entries) < count:
        raise ValueError(f"{name} has {len(entries)} entries where its descriptor says {count}")
    return LookupTable(entries[:count], first)


def read_window(data: "pydicom.Dataset") -> tuple[float, float, str] | None:
    """Center, width and function of the first window, or `None` where center or width is missing or too small."""
    center, width = (first_number(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(data.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or not (width >= 1 if function == "LINEAR" else width > 0):
        return None
    return center, width, function


def first_number(value: Any) -> float | None:
    """The first of an attribute's values as a finite number, or `None` where it has none."""
    values = [] if value is None else np.atleast_1d(np.asarray(value, dtype=float))
    return float(values[0]) if len(values) and np.isfinite(values[0]) else None


def windowed(values: np.ndarray, data: "pydicom.Dataset", padding: np.ndarray) -> np.ndarray:
    """
    Values after the first VOI LUT of a data set, else after its first window, else as they are: `float32` in [0, 1].

    A LUT is scaled from its lowest to its highest entry, a window over its whole output range (DICOM PS3.3 C.11.2.1),
    and values without either from the lowest to the highest that is not `padding`. A LUT whose entries are all equal
    is ignored.

    Raises:
        ValueError: the window's function is not one of DICOM's.
    """
    table, window = lookup_table(data, "VOILUTSequence"), read_window(data)
    if table and np.ptp(table.entries):
        return table._replace(entries=stretch(table.entries)).look_up(values)
    if window is None:
        if padding.any() and not padding.all():
            values = np.where(padding, values[~padding].min(), values)
        return stretch(values)
    (center, width, function), values = window, values.astype(np.float64)
    if function == "LINEAR":
        # A window of width 1 has no slope: it shows black below its edge and white above.
        shown = (values - center + 0.5) / (width - 1) + 0.5 if width > 1 else values > center - 0.5
    elif function == "LINEAR_EXACT":
        shown = (values - center) / width + 0.5
    elif function == "SIGMOID":
        shown = (1 + np.tanh(2 * (values - center) / width)) / 2
    else:
        raise ValueError(f"unknown VOI LUT function {function!r}")
    return np.clip(shown, 0, 1).astype(np.float32)


def load_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """
    Decode an image file.

    Args:
        path: PNG, JPEG or another format of Pillow's, or DICOM.
        max_pixels: Limit of width times height, as the file's header states them.

    Returns:
        `float32` RGB in [0, 1], shape `(height, width, 3)`; grey images have three equal channels.

    Raises:
        UnusableImageError: the file does not exist, is empty, damaged or truncated, has several frames, or exceeds
            the limit.
    """
    path = check_file(path)
    image = load_dicom(path, max_pixels) if is_dicom(path) else load_picture(path, max_pixels)
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image


def as_rgb(image: ImageInput, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """
    A file, Pillow image or array as RGB.

    Args:
        image: A Pillow image gives the same result as its file. Arrays are `(height, width)` or `(height, width, 3)`:
            `uint8`, floats in [0, 1], booleans, or other integers, which are stretched from their lowest to their
            highest value.
        max_pixels: Limit of width times height, for files and Pillow images.

    Returns:
        `float32` in [0, 1], shape `(height, width, 3)`.

    Raises:
        UnusableImageError: the file cannot be used.
        ValueError: the array has another shape or type, or floats outside [0, 1].
    """
    if isinstance(image, str | Path):
        return load_image(image, max_pixels)
    if isinstance(image, Image.Image):
        check_pixels(getattr(image, "filename", "") or "the image", *image.size, max_pixels)
    if hasattr(image, "detach"):  # a tensor
        image = image.detach().cpu()
        image = image.float() if str(image.dtype) == "torch.bfloat16" else image
    pixels = picture_pixels(image) if isinstance(image, Image.Image) else np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not pixels.size:
        raise ValueError(f"Image arrays are (height, width) or (height, width, 3), got shape {pixels.shape}.")
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / 255
    if pixels.dtype.kind == "b":
        return pixels.astype(np.float32)
    if pixels.dtype.kind not in "iuf":
        raise ValueError(f"Image arrays are of integers, floats or booleans, got {pixels.dtype}.")
    if pixels.dtype.kind != "f":
        return stretch(pixels)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError("Image arrays of floats must be in [0, 1].")
    return pixels.astype(np.float32)


def image_facts(path: str | Path, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """
    Size and bit depth from a file's header, without decoding its pixels.

    Raises:
        UnusableImageError: the file does not exist, or its header cannot be read.
    """
    path = check_file(path)
    if is_dicom(path):
        with reading(path, "not readable as DICOM, damaged or truncated"):
            data = read_dicom(path, stop_before_pixels=True)
            return ImageFacts(int(data.Columns), int(data.Rows), int(data.BitsStored))
    with open_picture(path, max_pixels) as picture, reading(path, "image does not decode"):
        width, height = picture.size
        sideways = picture.getexif().get(0x0112, 1) >= 5
        bits = 16 if picture.mode.startswith(("I", "F")) else 8
    return ImageFacts(height, width, bits) if sideways else ImageFacts(width, height, bits)


__all__ = [
    "DECODER_VERSION",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageFacts",
    "ImageInput",
    "UnusableImageError",
    "as_rgb",
    "image_facts",
    "load_image",
]
