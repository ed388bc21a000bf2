"""
Keeps console output that no user can act on away.

Libraries draw a progress bar for each file that they save or load, warn about things that this package does on
purpose, and print records twice where a program configures logging. Only these bars, warnings and duplicates, which
the constants below name, are suppressed.
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

# Logger -> words of its records that need no action: a reference implementation is as exact as a fast kernel.
RECORDS = {"transformers.integrations.hub_kernels": "is falling back to its reference PyTorch implementation"}

# Deprecated names of settings in transformers 5; a recipe may use the old or the new name.
WARNINGS = (r"`gradient_checkpointing(_enable|_disable|_kwargs)?` is deprecated",)

TWICE = ("datasets", "huggingface_hub")
"""Libraries with their own log handler, whose records the root logger's handler would print again."""


def quiet_bar(factory: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Hook for the progress bars of transformers: disables those that begin with `BARS`."""
    if str(kwargs.get("desc", "")).startswith(BARS):
        kwargs = {**kwargs, "disable": True}
    return factory(*args, **kwargs)


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether a log record does not contain the words that `RECORDS` has for its logger."""
    return RECORDS[record.name] not in record.getMessage()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the bars, records and warnings of this module's constants, also in forked processes."""
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
