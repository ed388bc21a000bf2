"""Train, evaluate, share and serve four model systems with one entry point. Importing it registers every model."""

import importlib
import pkgutil

from hf_fer import models

__version__ = "0.1.0"

for _module in pkgutil.iter_modules(models.__path__):
    importlib.import_module(f"{models.__name__}.{_module.name}")
