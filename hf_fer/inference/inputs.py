"""Inputs of a prediction: files, folders, tables and Hub data sets as one ordered list."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from hf_fer.data.files import visible_files
from hf_fer.data.hub_tables import read_hub
from hf_fer.data.loading import DataError
from hf_fer.data.manifest import local_file
from hf_fer.data.tables import PathFinder, TableFormat, find_column, is_table, need_column, read_table
from hf_fer.task.predictor import Predictor

Item = TypeVar("Item")
SHOWN = 60


@dataclass(frozen=True)
class Input:
    """
    One input to predict.

    Args:
        name: Name in the output: the file, the table and row, or the number of a text.
        value: Input of the pipeline.
        target: True answer, where it is known.
        error: Why the pipeline cannot be given this input.
        has_target: Whether the input's table has a column of true answers, which may be empty in this row.
    """

    name: str
    value: Any = None
    target: str | None = None
    error: str | None = None
    has_target: bool = False


def read_sources(sources: Iterable[str], predictor: type[Predictor], form: TableFormat | None = None) -> list[Input]:
    """
    Read the inputs of files, folders, tables and Hub data sets, in the given order.

    Args:
        sources: Paths, or names of Hub data sets where there is no such path.
        predictor: Predictor class of the system, which tells the inputs that it takes.
        form: Encoding and delimiter of tables.

    Raises:
        DataError: a source does not exist, does not parse, or has no input that the system takes.
    """
    return [found for source in sources for found in _read_source(source, predictor, form)]


def _read_source(source: str, predictor: type[Predictor], form: TableFormat | None) -> list[Input]:
    if not source.strip():
        raise DataError("an input has an empty name; give a file, a folder, a table or a Hub data set.")
    path = Path(source)
    if os.path.isdir(path):  # no error for a name that is too long, as a text is
        return _folder(path, predictor)
    if is_table(path):
        return list(table_inputs(read_table(path, form), source, predictor, PathFinder(path.parent)))
    if os.path.exists(path):
        return [_file(path, predictor)]
    if predictor.takes_texts and len(source.split()) > 1:
        shown = source if len(source) <= SHOWN else f"{source[:SHOWN]}..."
        raise DataError(f"{shown!r} is a text, not a file: write it into a .txt file, or texts into a table.")
    if path.suffix.lower() in predictor.endings or path.is_absolute() or len(path.parts) > 2:
        raise DataError(f"{source}: file or folder not found.")
    return [
        found
        for split, table in read_hub(source).items()
        for found in table_inputs(table, f"{source}/{split}" if split else source, predictor, None)
    ]


def _folder(folder: Path, predictor: type[Predictor]) -> list[Input]:
    files = [file for file in visible_files(folder, any_name=True) if file.suffix.lower() in predictor.endings]
    if not files:
        endings = ", ".join(predictor.endings)
        raise DataError(f"{folder}: has no file for {predictor.pipeline_task}. Endings that are read: {endings}.")
    return [_file(file, predictor) for file in files]


def _file(path: Path, predictor: type[Predictor]) -> Input:
    return Input(str(path), path if predictor.takes_texts else str(path))


def table_inputs(
    table: pd.DataFrame, source: str, predictor: type[Predictor], finder: PathFinder | None = None
) -> Iterator[Input]:
    """Inputs of a table's rows; `finder` finds the files that it names, and is `None` where their paths are known."""
    usual = [name for names in predictor.columns.values() for name in names]
    need_column(table, usual, "input", source)
    columns = {key: name for key, names in predictor.columns.items() if (name := find_column(table, names))}
    target = find_column(table, [name for name in predictor.target_columns if name not in columns.values()])
    for number, row in enumerate(table.to_dict("records"), 1):
        place = f"{source} row {number}"
        true = None if target is None or _is_missing(row[target]) else str(row[target])
        found = {key: row[name] for key, name in columns.items() if not _is_missing(row[name])}
        if not predictor.takes_texts:
            found = {key: _file_of(value, predictor, finder) for key, value in found.items()}
        found = {key: value for key, value in found.items() if value is not None}
        if not found:
            reason = f"the row has nothing in {', '.join(columns.values())}"
            yield Input(place, target=true, error=reason, has_target=target is not None)
            continue
        named = next((value for value in found.values() if isinstance(value, str)), None)
        name = place if predictor.takes_texts or named is None else named
        yield Input(name, predictor.combine(found), true, has_target=target is not None)


def _file_of(value: Any, predictor: type[Predictor], finder: PathFinder | None) -> str | None:
    if finder is not None and isinstance(value, str):
        return predictor.locate(finder, value)
    return local_file(value)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def files_of(value: Any, predictor: type[Predictor]) -> list[str | Path]:
    """The files that an input names; texts are none."""
    values = value.values() if isinstance(value, dict) else [value]
    kinds = Path if predictor.takes_texts else (str, Path)
    return [one for one in values if isinstance(one, kinds) and "\0" not in str(one)]


def number_items(items: Iterable[Any], predictor: type[Predictor]) -> Iterator[Input]:
    """Inputs of a Python iterable: a path is its own name, anything else is named by its number, from 1."""
    for number, item in enumerate(items, 1):
        if isinstance(item, Path) or (isinstance(item, str) and not predictor.takes_texts):
            yield Input(str(item), item)
        else:
            yield Input(str(number), predictor.from_item(item) if isinstance(item, dict) else item)


def groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` consecutive items; the last may be shorter."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
