"""The skeleton and the pictures that the HTML pages of a report share."""

import html
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..decoding_csr import load_image

PICTURE = 160  # pixels, side of a small picture
CONTEXT = 1.5  # cells shown around a patch on each side

SKELETON = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 15px sans-serif; margin: 0 auto; padding: 1em; max-width: 110em }}
section {{ border-top: 1px solid #bbb; padding: 0.5em 0 }}
figure {{ display: inline-block; vertical-align: top; margin: 0.4em; width: 330px; max-width: 95% }}
figure.three {{ width: 500px }}
figcaption {{ font-size: 13px; overflow-wrap: anywhere }}
h2, h3 {{ break-after: avoid; overflow-wrap: anywhere }}
img {{ max-width: 100%; height: auto }}
figure.three img {{ max-width: 32% }}
td {{ text-align: right; font-variant-numeric: tabular-nums; padding-left: 2em }}
th {{ text-align: left; font-weight: normal }}
tr:last-child {{ font-weight: bold }}
caption {{ text-align: left; font-weight: bold }}
.other {{ color: #b00 }}
.pruned {{ opacity: 0.4 }}
@media print {{ figure, table {{ break-inside: avoid }} }}
</style></head><body>
<h1>{title}</h1>
<p>{introduction}</p>
{sections}
</body></html>
"""


def start_folder(folder: Path) -> None:
    """Creates an empty folder for a page, and deletes the contents from an earlier run."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def write_html(path: Path, title: str, introduction: str, sections: list[str]) -> None:
    """Writes a page; its introduction and sections are HTML."""
    content = {"title": html.escape(title), "introduction": introduction, "sections": "\n".join(sections)}
    path.write_text(SKELETON.format(**content), encoding="utf-8")


def picture(path: Path, image: np.ndarray, description: str) -> str:
    """Write `uint8` RGB beside a page, and return the tag that shows it."""
    Image.fromarray(image).save(path, quality=90)
    return tag(path, description)


def tag(path: Path, description: str) -> str:
    """The HTML tag of a picture that lies beside the page."""
    return f'<img src="{path.name}" alt="{html.escape(description)}">'


def load_pixels(path: str | Path, max_pixels: int) -> np.ndarray:
    """An image file as `uint8` RGB; raises UnusableImageError."""
    return (load_image(path, max_pixels) * 255).round().astype(np.uint8)


def crop(image: np.ndarray, box: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """
    Cut out a box with its surroundings, and mark it in the image.

    Args:
        image: `uint8` RGB.
        box: x0, y0, x1, y1 as shares of the image.

    Returns:
        The box with its surroundings, and the whole image, both with the box drawn in.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (round(share * side) for share, side in zip(box, (width, height, width, height), strict=True))
    x0, y0 = min(x0, width - 1), min(y0, height - 1)
    x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
    pad_x, pad_y = round(CONTEXT * (x1 - x0)), round(CONTEXT * (y1 - y0))
    marked = cv2.rectangle(image.copy(), (x0, y0), (x1 - 1, y1 - 1), (255, 255, 0), max(1, width // 150))
    patch = marked[max(y0 - pad_y, 0) : y1 + pad_y, max(x0 - pad_x, 0) : x1 + pad_x]
    return patch, marked


def resized(image: np.ndarray, side: int = PICTURE) -> np.ndarray:
    """Resizes an image so that its longer side has `side` pixels."""
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
