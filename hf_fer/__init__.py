"""
Train, evaluate, share and serve four model systems with one entry point.

Importing this package registers every model with transformers' Auto classes and `pipeline`. The models are imported
together with transformers, so that a command that needs neither starts fast. `hf_fer.predict` is imported on first
use.
"""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from wrapt import register_post_import_hook

__version__ = "0.1.0"


def _register_models(transformers: ModuleType) -> None:
    models = importlib.import_module("hf_fer.models")
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"{models.__name__}.{module.name}")


register_post_import_hook(_register_models, "transformers")


def __getattr__(name: str) -> Any:
    if name == "predict":
        return importlib.import_module("hf_fer.inference.predict").predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
