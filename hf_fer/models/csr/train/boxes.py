"""Boxes of findings in images: numbers in pixels, and shares of the image."""

from collections.abc import Iterable
from typing import Any

from hf_fer.data.loading import DataError

BOX_COLUMNS = ["x_min", "y_min", "x_max", "y_max"]


def corner_numbers(box: Iterable[Any], source: str, row: int) -> list[float]:
    """The corners of a box as numbers; raises DataError with the row where one is not."""
    corners = list(box)
    try:
        return [float(corner) for corner in corners]
    except (TypeError, ValueError) as error:
        given = dict(zip(BOX_COLUMNS, corners, strict=True))
        raise DataError(f"{source}: row {row} has the box {given}; give four numbers, in pixels.") from error


def relative_boxes(boxes: list[list[float]], width: int, height: int, names: list[str]) -> list[list[float]]:
    """
    Boxes in pixels as shares of their image.

    Raises:
        ValueError: a box has no area, or does not lie in the image.
    """
    relative = []
    for concept, x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(
                f"the box {x0:g}, {y0:g}, {x1:g}, {y1:g} of {names[int(concept)]!r} has no area or lies outside the "
                f"image of {width} x {height} pixels"
            )
        relative.append([concept, x0 / width, y0 / height, x1 / width, y1 / height])
    return relative
