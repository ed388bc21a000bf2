"""Finds the systems' classes for use after training, keyed by the pipeline that saved models name."""

import importlib
import importlib.util
import inspect
import pkgutil
from typing import TypeVar

from hf_fer import models

Kind = TypeVar("Kind")


def classes_by_pipeline(module: str, kind: type[Kind]) -> dict[str, type[Kind]]:
    """
    Find the subclass of `kind` of each system that has one.

    Args:
        module: Module in the system's folder `train` that defines it, such as `predictor`.
        kind: Base class, whose subclasses have a `pipeline_task`.

    Returns:
        Name of the registered pipeline -> class.
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
