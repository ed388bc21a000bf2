"""The one reader of tables: CSV, TSV, JSONL and Parquet, plain or compressed; values stay the text that is written."""

import csv
import io
import json
import logging
import lzma
import os
import re
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
from fsspec.implementations.local import LocalFileSystem

from hf_fer.data.files import is_hidden
from hf_fer.data.loading import DataError
from hf_fer.data.names import clean_name
from hf_fer.recipe.arguments import nearest

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip", ".zst")
DELIMITERS = (",", ";", "\t", "|")
# The mark of UTF-32 begins with that of UTF-16, so it is compared first.
BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
# First bytes of other files that are given a table's ending.
OTHER_FILES = {b"PK\x03\x04": "a ZIP archive or an Excel file", b"\x1f\x8b": "a gzip archive", b"PAR1": "Parquet"}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class TableFormat:
    """
    Encoding and delimiter of a text table.

    Args:
        encoding: Python's name of the encoding. A byte-order mark in the file overrides the default.
        delimiter: Column delimiter of a CSV; a tab may be written `\\t`. Detected from the header line if unset.
    """

    encoding: str = "utf-8"
    delimiter: str | None = None

    def __post_init__(self):
        if self.delimiter == "\\t":
            object.__setattr__(self, "delimiter", "\t")

    @property
    def codec(self) -> str:
        """Python's name of the codec; for UTF-8, the one that skips a byte-order mark."""
        return "utf-8-sig" if self.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else self.encoding


def table_ending(path: str | Path) -> str:
    """The ending that tells a file's format, in lower case and without the ending of its compression."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_table(path: str | Path) -> bool:
    """Whether a name has the ending of a table; the file need not exist."""
    return table_ending(path) in ENDINGS


def read_table(path: str | Path, form: TableFormat | None = None, *, may_be_empty: bool = False) -> pd.DataFrame:
    """
    Read a table. No type is guessed: `00000`, `NA` and `None` stay text, and only an empty field is missing.

    Args:
        path: CSV, TSV, JSONL or Parquet file, with the ending in any case; it may be compressed (gz, bz2, xz, zip,
            zst).
        form: Encoding and delimiter.
        may_be_empty: Whether a table without rows is read.

    Returns:
        Text in every column, with `None` for missing values; lists and objects of JSONL and Parquet are kept.

    Raises:
        DataError: the file does not exist, decode or parse, has no rows, or a row has more or fewer fields than the
            header; the message names the row.
    """
    table = _read(Path(path), form or TableFormat())
    if table.empty and not may_be_empty:
        raise DataError(f"{path}: has no rows; write one row per example below the names of the columns.")
    return table


def _read(path: Path, form: TableFormat) -> pd.DataFrame:
    ending = table_ending(path)
    if ending not in ENDINGS:
        raise DataError(f"{path}: cannot read {ending or 'a file without ending'}; give one of {list(ENDINGS)}.")
    if not path.is_file():
        raise DataError(f"{path}: file not found.")
    data = _read_bytes(path)
    if ending == ".parquet":
        return _parse_parquet(data, path)
    try:
        text = decode(data, form)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return _parse_jsonl(text, path) if ending == ".jsonl" else _parse_csv(text, path, form, tabs=ending == ".tsv")


def _read_bytes(path: Path) -> bytes:
    import pyarrow

    try:
        if path.suffix.lower() == ".zst":  # fsspec needs another package for it
            with pyarrow.input_stream(str(path), compression="zstd") as file:
                return file.read()
        if path.suffix.lower() == ".zip":
            return _only_member(path)
        with LocalFileSystem().open(str(path), "rb", compression="infer") as file:
            return file.read()
    except (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def _only_member(path: Path) -> bytes:
    """The one file of a ZIP archive, without folders and hidden files; raises `DataError` where there are others."""
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if not name.endswith("/") and not is_hidden(Path(name))]
        if len(members) != 1:
            found = ", ".join(members[:5]) + (", ..." if len(members) > 5 else "")
            raise DataError(f"{path}: has {len(members)} files ({found}), not one; unpack it, and give the table.")
        try:
            return archive.read(members[0])
        except (RuntimeError, NotImplementedError) as error:  # a password, or another way of compression
            raise DataError(f"{path}: cannot be read ({error}). Unpack it, and give the table.") from error


def decode(data: bytes, form: TableFormat) -> str:
    """Decode a file's bytes; raises `DataError` with the first line that is not in the encoding, and the remedy."""
    codec = form.codec
    if codec == "utf-8-sig":
        codec = next((name for mark, name in BYTE_ORDER_MARKS.items() if data.startswith(mark)), codec)
        if codec == "utf-8-sig":
            _check_is_text(data)
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"is not {form.encoding} at line {line}. Pass --encoding with its name (cp1252, cp1258, gb18030, "
            "shift_jis, ...), or convert the file to UTF-8."
        ) from error
    except (LookupError, ValueError) as error:
        raise DataError(f"encoding {form.encoding!r} is unknown to Python.") from error
    return text


def _check_is_text(data: bytes) -> None:
    """Raises `DataError` for UTF-16 without a byte-order mark, and for an archive that is named as a text."""
    other = next((what for first, what in OTHER_FILES.items() if data.startswith(first)), None)
    if other:
        raise DataError(f"is no text but {other}. Give it the ending that it should have, or save it as CSV in UTF-8.")
    start = data[:400]
    if 4 * start.count(0) > len(start):
        raise DataError(
            "begins with zero bytes, as UTF-16 without a byte-order mark does. Pass --encoding utf-16-le (or "
            "utf-16-be), or convert the file to UTF-8."
        )


def _parse_jsonl(text: str, path: Path) -> pd.DataFrame:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise DataError(
                f"{path}: line {number} is not JSON ({reason}). Write one object on each line, not one array."
            ) from error
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {number} is not a JSON object.")
        records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = {name: [record.get(name) for record in records] for name in names}
    return _as_text(columns if "\\u" not in text else {n: _whole_text(v, n, path) for n, v in columns.items()}, path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises `ValueError` where a name occurs twice, of which Python would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place]))
        raise ValueError(f"{twice!r} occurs twice")
    return found


def _whole_text(values: list[Any], column: str, path: Path) -> list[Any]:
    """Values with U+FFFD for halves of characters (`\\ud83d` alone), which no file or library can store as text."""
    broken = [n for n, value in enumerate(values) if isinstance(value, str) and _LONE_SURROGATE.search(value)]
    if broken:
        logger.warning(
            "%s: %d values of %r have half of a character, first in row %d; it is read as U+FFFD.",
            *(path, len(broken), column, broken[0] + 1),
        )
    chosen = set(broken)
    return [_LONE_SURROGATE.sub("\ufffd", value) if n in chosen else value for n, value in enumerate(values)]


def _parse_parquet(data: bytes, path: Path) -> pd.DataFrame:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: does not parse as .parquet ({error}).") from error
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "__index_level_0__"}
    return _as_text(columns, path)


def _as_text(columns: dict[str, list[Any]], path: Path) -> pd.DataFrame:
    cells: dict[str, list[Any]] = {}
    for name, values in columns.items():
        if clean_name(name) in cells:
            raise DataError(f"{path}: two columns are named {clean_name(name)!r}; give them different names.")
        cells[clean_name(name)] = list(map(_cell, values))
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, list | dict | bytes):
        return value
    # A missing number is NaN, the only value that does not equal itself.
    return None if value != value or value == "" else str(value)


def _parse_csv(text: str, path: Path, form: TableFormat, tabs: bool) -> pd.DataFrame:
    declared, text = _declared_delimiter(text)
    header = next((line for line in text.splitlines() if line.strip()), None)
    if header is None:
        raise DataError(f"{path}: is empty; its first line must name the columns.")
    delimiter = form.delimiter or declared or ("\t" if tabs else sniff_delimiter(header))
    if delimiter != ("\t" if tabs else ","):
        logger.info("%s: read with %r between columns.", path, delimiter)
    csv.field_size_limit(sys.maxsize)  # set for the whole csv module; its default is shorter than a long document
    # A .tsv has no quoting, so a quotation mark is an ordinary character.
    dialect = {"quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, **dialect)
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(
            f"{path}: row {len(rows)}, up to line {reader.line_num}, does not parse ({error}). Put a field that has "
            'quotation marks in quotation marks, and double its own: "so ""called""".'
        ) from error
    return _from_rows(rows[0], rows[1:], lines[1:], path, delimiter)


def _declared_delimiter(text: str) -> tuple[str | None, str]:
    """The delimiter of a first line `sep=;`, which spreadsheets write, or `None`; and the text without that line."""
    found = re.match(r"sep=(.)[ ]*(?:\r\n?|\n)", text, re.IGNORECASE)
    return (found[1], text[found.end() :]) if found else (None, text)


def sniff_delimiter(header: str) -> str:
    """The delimiter that splits a header line into most columns; a comma where none gives two."""
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark))))


def _from_rows(header: list[str], rows: list[list[str]], lines: list[int], path: Path, delimiter: str) -> pd.DataFrame:
    names = [clean_name(name) for name in header]
    width = len(names)
    if rows and all(len(row) == width + 1 and row[-1] == "" for row in rows):
        rows = [row[:-1] for row in rows]  # some programs end every row except the header with a delimiter
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise DataError(
                f"{path}: row {number} (line {lines[number - 1]}) has {len(row)} fields, and the header has {width}: "
                f"{delimiter.join(row)[:100]!r}. Put a field that has {delimiter!r} in it in quotation marks, correct "
                "the number of fields, or pass --delimiter if the columns have another delimiter."
            )
    columns = {}
    for index, name in enumerate(names):
        values = [row[index] or None for row in rows]
        if not name and not any(values):
            continue
        if name in columns:
            raise DataError(f"{path}: two columns are named {name!r}; give them different names.")
        columns[name or f"column {index + 1}"] = values
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def find_column(table: pd.DataFrame, names: Iterable[str]) -> str | None:
    """The column with the first of `names` that exists; case is ignored, blanks and hyphens count as underscores."""
    columns = {_plain(name): name for name in reversed(list(table))} | {name: name for name in table}
    return next((columns[key] for name in names for key in (name, _plain(name)) if key in columns), None)


def _plain(name: Any) -> str:
    return clean_name(name).casefold().replace(" ", "_").replace("-", "_")


def need_column(table: pd.DataFrame, names: Iterable[str], what: str, source: str, remedy: str = "") -> str:
    """
    The column that `find_column` finds.

    Raises:
        DataError: there is none; the message has the accepted names, the table's columns, and the closest one.
    """
    names = tuple(names)
    found = find_column(table, names)
    if found is None:
        columns = sorted(map(str, table))
        near = nearest(names[0], columns) or "."
        raise DataError(f"{source}: has no {what} column, one of {list(names)}{remedy}; it has {columns}{near}")
    return found


class PathFinder:
    """
    Finds the files that a table names, also where another machine wrote the names: with backslashes, surrounding
    blanks, another Unicode form, or the ending in another case.

    Args:
        folder: Folder that relative names are relative to.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._listings: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> str:
        """The path of the file that a name means, or the path as written if there is no such file."""
        archive, mark, member = name.partition("::")
        written = self.folder / archive
        if os.path.exists(written):
            return f"{written}{mark}{member}"
        found = self._walk(Path(archive.strip().replace("\\", "/")))
        return f"{found or written}{mark}{member}"

    def _walk(self, path: Path) -> Path | None:
        place, parts = (Path(path.anchor), path.parts[1:]) if path.is_absolute() else (self.folder, path.parts)
        for part in parts:
            if not os.path.exists(place / part):
                part = self._names(place).get(_spelling(part))
                if part is None:
                    return None
            place = place / part
        return place

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = {_spelling(child.name): child.name for child in folder.iterdir()}
            except OSError:
                self._listings[folder] = {}
        return self._listings[folder]


def _spelling(name: str) -> str:
    pure = PurePath(unicodedata.normalize("NFC", name))
    return pure.stem + pure.suffix.lower()
