"""Metrics that a recipe adds: any `evaluate.Metric`, by its name on the Hub or by the path of a Python file."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import evaluate
import numpy as np


class MetricError(ValueError):
    """A metric that cannot be loaded or computed; the message names it and the remedy."""


@cache
def load_metric(name: str) -> evaluate.Metric:
    """
    Load a metric.

    Args:
        name: Name of a metric on the Hub, or path of a Python file with a subclass of `evaluate.Metric`.

    Raises:
        MetricError: it cannot be loaded.
    """
    if name.endswith(".py") and not Path(name).is_file():
        raise MetricError(f"there is no file {name}; the path is relative to the folder that the run starts in")
    try:
        return evaluate.load(name, module_type="metric", keep_in_memory=True)
    except Exception as error:  # raised by the Hub client, the file's own code or a package that it imports
        reason = " ".join(str(error).split())
        raise MetricError(
            f"{name} cannot be loaded ({reason}). Give the name of a metric on the Hub, or a .py file with a subclass "
            "of evaluate.Metric, and install what it imports"
        ) from error


def stem(name: str) -> str:
    """Prefix of a metric's figures: its name without folders and the ending `.py`."""
    return Path(name).name.removesuffix(".py")


def extra_figures(names: Iterable[str], predictions: Iterable[Any], references: Iterable[Any]) -> dict[str, float]:
    """
    Compute the metrics that a recipe adds.

    Args:
        names: Names or paths; see `load_metric`.
        predictions, references: One of each per example, as the system compares them: class indices, or texts.

    Returns:
        Figure -> number. A key equal to the metric's name is kept, any other becomes `<metric>_<key>`; results that
        are not numbers are left out.

    Raises:
        MetricError: a metric cannot be computed from these predictions and references.
    """
    figures = {}
    for name in names:
        try:
            found = load_metric(name).compute(predictions=list(predictions), references=list(references))
        except (ValueError, TypeError, KeyError) as error:
            raise MetricError(
                f"extra_metrics: {name} cannot be computed from this system's predictions ({error}). Leave it out, or "
                "give a metric of your own that accepts them"
            ) from error
        own = stem(name)
        figures |= {
            key if key == own else f"{own}_{key}": float(value)
            for key, value in found.items()
            if isinstance(value, int | float | np.number)
        }
    return figures
