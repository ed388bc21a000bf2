"""
A console that shows what a user can act on.

The libraries below draw a bar for each file that they save or load, warn of what this package does on purpose, and
print a record twice where a program has logging of its own. Exactly that is left out; every other bar, warning and
error stays.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import datasets
import huggingface_hub
import transformers

BARS = ("Writing model shards", "Loading weights")

# Logger -> what its records begin or go on with that ask nothing of a user: a reference implementation is as exact.
RECORDS = {"transformers.integrations.hub_kernels": "is falling back to its reference PyTorch implementation"}

# Settings of transformers 5 under both names; a recipe may use either.
WARNINGS = (r"`gradient_checkpointing(_enable|_disable|_kwargs)?` is deprecated",)

TWICE = ("datasets", "huggingface_hub")
"""Libraries with a handler of their own, whose records go to that of the root logger, too."""


def quiet_bar(factory: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """A bar of transformers as it asked for it, or one that is not drawn."""
    if str(kwargs.get("desc", "")).startswith(BARS):
        kwargs = {**kwargs, "disable": True}
    return factory(*args, **kwargs)


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether a library's record says something to act on."""
    return RECORDS[record.name] not in record.getMessage()


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what the module's constants name, in this process and in those it forks."""
    libraries = [logging.getLogger(name) for name in TWICE]
    loggers = [logging.getLogger(name) for name in RECORDS]
    propagated = [library.propagate for library in libraries]
    hook = transformers.utils.logging.set_tqdm_hook(quiet_bar)
    try:
        datasets.utils.logging.disable_propagation()
        huggingface_hub.utils.logging.disable_propagation()
        for logger in loggers:
            logger.addFilter(is_wanted)
        with warnings.catch_warnings():
            for message in WARNINGS:
                warnings.filterwarnings("ignore", message, FutureWarning)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_wanted)
        for library, before in zip(libraries, propagated, strict=True):
            library.propagate = before
        transformers.utils.logging.set_tqdm_hook(hook)
