"""What systems bring for use after training, by the pipeline that a saved model is known by."""

import importlib
import importlib.util
import inspect
import pkgutil
from typing import TypeVar

from hf_fer import models

Kind = TypeVar("Kind")


def classes_by_pipeline(module: str, kind: type[Kind]) -> dict[str, type[Kind]]:
    """
    The class of each system that has one.

    Args:
        module: Its module in the system's folder `train`, such as `predictor`.
        kind: What the class derives from. It has a `pipeline_task`.

    Returns:
        The registered pipeline's name -> class.
    """
    found = {}
    for system in pkgutil.iter_modules(models.__path__):
        name = f"{models.__name__}.{system.name}.train.{module}"
        if importlib.util.find_spec(name) is None:
            continue
        for _, member in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            if issubclass(member, kind) and member.__module__ == name:
                found[member.pipeline_task] = member
    return found
