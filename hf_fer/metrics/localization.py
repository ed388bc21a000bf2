"""Pointing game: whether the maximum of a localisation map lies in a box of its category."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
pointing_game: share of maps whose maximum lies in a box of their category, averaged over categories (Zhang et al.
2018, International Journal of Computer Vision 126, without tolerance around the boxes).
per_category: hits and maps of each category.
"""


class PointingGame(evaluate.Metric):
    """`compute(predictions=, references=, categories=)`: x and y of each map's maximum, its boxes and its category."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=(
                "predictions: x and y. references: boxes as x0, y0, x1, y1. categories: one name per map."
            ),
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Sequence(datasets.Value("float64"))),
                    "categories": datasets.Value("string"),
                }
            ),
        )

    def _compute(
        self, predictions: list[list[float]], references: list[list[list[float]]], categories: list[str]
    ) -> dict[str, object]:
        per_category: dict[str, dict[str, int]] = {}
        for (x, y), boxes, category in zip(predictions, references, categories, strict=True):
            counts = per_category.setdefault(category, {"hits": 0, "maps": 0})
            counts["maps"] += 1
            counts["hits"] += any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes)
        shares = [counts["hits"] / counts["maps"] for counts in per_category.values()]
        return {"pointing_game": float(np.mean(shares)), "per_category": per_category}


def pointing_game(points: np.ndarray, boxes: list[list[list[float]]], names: list[str]) -> dict[str, object] | None:
    """
    Score the maps of several categories over a split.

    Args:
        points: x and y of each map's maximum, `(n, categories, 2)`.
        boxes: Boxes of each example as (category index, x0, y0, x1, y1), in the units of `points`.
        names: Category names in index order.

    Returns:
        The figures of `PointingGame`, or `None` where there are no boxes.
    """
    asked: dict[tuple[int, int], list[list[float]]] = {}
    for index, example in enumerate(boxes):
        for category, *box in example:
            asked.setdefault((index, int(category)), []).append(box)
    if not asked:
        return None
    return PointingGame(keep_in_memory=True).compute(
        predictions=[points[place].tolist() for place in asked],
        references=list(asked.values()),
        categories=[names[category] for _, category in asked],
    )
