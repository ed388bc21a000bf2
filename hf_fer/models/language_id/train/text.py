"""Reads and cleans texts that are labelled with a language, from a table, folders of .txt files or the Hub."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hf_fer.data.files import visible_files
from hf_fer.data.hub_tables import read_hub
from hf_fer.data.loading import SPLIT_ALIASES, SPLITS, DataError
from hf_fer.data.names import clean_name, clean_names
from hf_fer.data.tables import TableFormat, decode, find_column, is_table, need_column, read_table
from hf_fer.recipe.arguments import nearest

from .languages import canonical_code

TEXT_COLUMNS = ("text", "sentence", "content", "document", "utterance", "transcript")
LABEL_COLUMNS = ("label", "lang", "language", "labels", "language_code", "lang_code", "locale")
SOURCE_COLUMNS = ("source", "group", "domain", "url", "site", "speaker", "author")
_BLANK = re.compile(r"[\s\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class TextFormat:
    """
    How texts are stored in their files.

    Args:
        text_column, label_column, source_column: Names of columns; by default the first usual name that occurs.
        encoding: Encoding of the files; a byte-order mark takes precedence over the default.
        delimiter: Delimiter of a CSV's columns; found from its header line if unset.
        text_unit: Whether a .txt file is one `document`, or each `line` of it a text with the file as its source.
    """

    text_column: str | None = None
    label_column: str | None = None
    source_column: str | None = None
    encoding: str = "utf-8"
    delimiter: str | None = None
    text_unit: str = "document"

    @property
    def table(self) -> TableFormat:
        """Encoding and delimiter of a table of texts."""
        return TableFormat(self.encoding, self.delimiter)


def read_texts(dataset: str, form: TextFormat) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """
    Read a table file, a folder or a Hub data set.

    A folder is `<language>/*.txt`, or `<split>/<language>/*.txt`.

    Returns:
        Rows with the strings `text`, `label` and `path` (file and row), and `source` and `split` where given; and
        the files and rows left out as `{"path", "reason"}`.

    Raises:
        DataError: the data set does not exist, does not parse or decode, or lacks a column.
    """
    path = Path(dataset)
    if path.is_dir():
        return _read_folder(path, form)
    if path.is_file() or is_table(path):
        tables = [(str(path), None, read_table(path, form.table))]
    else:
        tables = [
            (f"{dataset}/{split}" if split else dataset, split, table) for split, table in read_hub(dataset).items()
        ]
    parts = [_standard_columns(table, where, split, form) for where, split, table in tables]
    return _drop_unlabelled(pd.concat(parts, ignore_index=True))


def _pick_column(table: pd.DataFrame, where: str, wanted: str | None, usual: tuple[str, ...], role: str) -> str | None:
    if wanted is None:
        return find_column(table, usual)
    wanted = clean_name(wanted)
    if wanted not in table:
        columns = sorted(map(str, table))
        raise DataError(
            f"{where}: has no column {wanted!r} ({role}_column); it has {columns}{nearest(wanted, columns) or '.'}"
        )
    return wanted


def _standard_columns(table: pd.DataFrame, where: str, split: str | None, form: TextFormat) -> pd.DataFrame:
    columns = {
        "text": _pick_column(table, where, form.text_column, TEXT_COLUMNS, "text"),
        "label": _pick_column(table, where, form.label_column, LABEL_COLUMNS, "label"),
        "source": _pick_column(table, where, form.source_column, SOURCE_COLUMNS, "source"),
        "split": find_column(table, ("split",)),
    }
    for role, usual in (("text", TEXT_COLUMNS), ("label", LABEL_COLUMNS)):
        columns[role] = columns[role] or need_column(table, usual, role, where, f" or named in {role}_column")
    rows = pd.DataFrame(
        {
            role: ["" if _missing(value) else str(value) for value in table[name]]
            for role, name in columns.items()
            if name
        }
    )
    for role in {"label", "source"} & set(rows):
        rows[role] = clean_names(rows[role]).fillna("")
    rows["path"] = [f"{where} row {number}" for number in range(1, len(rows) + 1)]
    if "source" in rows:  # each row without a source is a source of its own
        rows["source"] = rows["source"].where(rows["source"] != "", rows["path"])
    if split is not None and "split" not in rows:
        rows["split"] = split
    return _check_splits(rows)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _check_splits(rows: pd.DataFrame) -> pd.DataFrame:
    if "split" in rows:
        rows["split"] = rows["split"].map(clean_name).str.lower().replace(SPLIT_ALIASES)
        if not rows["split"].any():
            return rows.drop(columns="split")
        unknown = rows[~rows["split"].isin(SPLITS)]
        if len(unknown):
            first = unknown.iloc[0]
            found = f"split {first['split']!r}" if first["split"] else "no split, though others have"
            raise DataError(f"{first['path']} has {found}; use one of {list(SPLITS)}.")
    return rows


def _read_folder(folder: Path, form: TextFormat) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    files = [path for path in visible_files(folder) if path.suffix.lower() == ".txt"]
    found = [(path, path.relative_to(folder).parts) for path in files]
    names = {parts[0].lower() for _, parts in found if len(parts) > 1}
    by_split = bool(names) and names <= {*SPLITS, *SPLIT_ALIASES}
    records, skipped = [], []
    for path, parts in found:
        if len(parts) < 2 + by_split:
            continue
        place = {"label": clean_name(parts[1] if by_split else parts[0]), **({"split": parts[0]} if by_split else {})}
        try:
            content = decode(path.read_bytes(), form.table)
        except DataError as error:
            skipped.append({"path": str(path), "reason": str(error)})
            continue
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}).") from error
        records += [{**place, "text": text, **where} for text, where in _units(path, content, form.text_unit)]
    if not records and not skipped:
        raise DataError(f"{folder}: has no .txt files in folders per language, like {folder}/vi/1.txt.")
    return _check_splits(pd.DataFrame(records, columns=None if records else ["text", "label", "path"])), skipped


def _units(path: Path, content: str, unit: str) -> Iterator[tuple[str, dict[str, str]]]:
    if unit == "document":
        yield content, {"path": str(path)}
        return
    for number, line in enumerate(content.splitlines(), 1):
        yield line, {"path": f"{path} line {number}", "source": str(path)}


def _drop_unlabelled(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    unlabelled = rows["label"].str.strip() == ""
    skipped = [{"path": path, "reason": "has no label"} for path in rows["path"][unlabelled]]
    return rows[~unlabelled].reset_index(drop=True), skipped


def canonical_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with canonical codes as `label`; raises `DataError` that names the first row with an unknown label."""
    codes = {}
    for label, path in zip(rows["label"], rows["path"], strict=True):
        if label not in codes:
            try:
                codes[label] = canonical_code(label)
            except DataError as error:
                raise DataError(f"{path}: label {error}") from error
    return rows.assign(label=rows["label"].map(codes))


def normalize(text: str) -> str:
    """NFKC, with each run of white space or control characters as one space."""
    return _BLANK.sub(" ", unicodedata.normalize("NFKC", text)).strip()


def clean(rows: pd.DataFrame, *, min_letters: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """
    Normalise texts, and drop empty, short and duplicate ones.

    Args:
        rows: Rows of `read_texts`.
        min_letters: Texts with fewer letters are too short; digits, emoji and punctuation do not count as letters.

    Returns:
        The remaining rows, and how many were `empty`, `too_short`, or a `duplicate` of an earlier text with the same
        label and, if given, the same split; `ambiguous` counts texts that occur under several labels and are all kept.
    """
    rows = rows.assign(text=rows["text"].map(normalize))
    empty = rows["text"] == ""
    short = ~empty & (rows["text"].map(lambda text: sum(map(str.isalpha, text))) < min_letters)
    counts = {"empty": int(empty.sum()), "too_short": int(short.sum())}
    rows = rows[~empty & ~short]
    # The protocol decides which of two splits keeps a text.
    duplicate = rows.duplicated(["label", "text", *({"split"} & set(rows))])
    counts["duplicate"] = int(duplicate.sum())
    rows = rows[~duplicate].reset_index(drop=True)
    counts["ambiguous"] = int(rows.drop_duplicates(["label", "text"])["text"].duplicated(keep=False).sum())
    return rows, counts
