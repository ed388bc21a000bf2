"""Help page of a recipe's fields: grouped by dataclass, each field once, with its default."""

import dataclasses
import json
import shutil
import textwrap
from argparse import SUPPRESS
from collections.abc import Iterable
from typing import Any

import transformers

INDENT = " " * 6
STOCK = transformers.TrainingArguments.__module__


def fields_page(dataclass_types: Iterable[type], defaults: dict[str, Any]) -> str:
    """
    One paragraph per field, under a heading for each group.

    Args:
        dataclass_types: The dataclasses of a recipe; each is a group under the first line of its docstring.
        defaults: Field -> value that the recipe gives, shown instead of the dataclass's default.
    """
    stock = {item.name for item in dataclasses.fields(transformers.TrainingArguments)}
    own, inherited = [], []
    for dataclass_type in dataclass_types:
        fields = [item for item in dataclasses.fields(dataclass_type) if item.metadata.get("help") != SUPPRESS]
        declared = set().union(
            *(vars(base).get("__annotations__", {}) for base in dataclass_type.__mro__ if base.__module__ != STOCK)
        )
        title = (dataclass_type.__doc__ or dataclass_type.__name__).strip().splitlines()[0]
        own.append((title, [item for item in fields if item.name in declared]))
        inherited += [item for item in fields if item.name not in declared and item.name in stock]
    groups = [*own, ("The Trainer's own fields, as in transformers' documentation.", inherited)]
    return "\n\n".join(
        "\n".join([title, *(_entry(item, defaults) for item in fields)]) for title, fields in groups if fields
    )


def _entry(item: dataclasses.Field, defaults: dict[str, Any]) -> str:
    default = defaults.get(item.name, item.default)
    if default is dataclasses.MISSING:
        default = item.default_factory() if item.default_factory is not dataclasses.MISSING else None
    shown = "" if default is None or default == "" else f" Default: {json.dumps(default, default=str)}."
    text = " ".join(f"{item.metadata.get('help', '')}{shown}".split())
    width = min(shutil.get_terminal_size().columns, 110)
    return f"  --{item.name}\n" + textwrap.fill(text, width, initial_indent=INDENT, subsequent_indent=INDENT)
