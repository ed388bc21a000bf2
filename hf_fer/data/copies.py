"""Finds copies of an example by their bytes, whatever their names, and keeps them in one split."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from hf_fer.data.loading import SPLITS, digest, file_facts, recall, remember, warned

CHUNK = 2**22
MEMORY = "digests.json"
DIGEST_LENGTH = 32
"""Hexadecimal digits of a SHA-256 that are kept: 128 bits."""


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, cut to `DIGEST_LENGTH` digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, cut to `DIGEST_LENGTH` digits; of the path itself if it is a key inside a file."""
    try:
        with Path(path).open("rb") as file:
            found = hashlib.sha256()
            while chunk := file.read(CHUNK):
                found.update(chunk)
            return found.hexdigest()[:DIGEST_LENGTH]
    except (OSError, ValueError):  # a name with a zero byte
        return text_digest(os.fspath(path))


def file_digests(paths: Iterable[str], workers: int = 4) -> dict[str, str]:
    """Path -> `file_digest`; cached on disk until a file's size or modification time changes."""
    paths = list(dict.fromkeys(paths))
    memory = recall(MEMORY)
    keys = {path: (facts := file_facts(path)) and digest(facts) for path in paths}
    unknown = [path for path in paths if keys[path] not in memory]
    with ThreadPoolExecutor(workers) as pool:
        found = dict(zip(unknown, pool.map(file_digest, unknown), strict=True))
    remember(MEMORY, {keys[path]: value for path, value in found.items() if keys[path]})
    return {path: found[path] if path in found else memory[keys[path]] for path in paths}


def content_digests(rows: pd.DataFrame, file_columns: Iterable[str], text_columns: Iterable[str] = ()) -> pd.Series:
    """
    Digests of the files and texts of each example.

    Args:
        rows: One row per example.
        file_columns: Columns of paths; missing columns and missing values are left out.
        text_columns: Columns of texts.

    Returns:
        A list of digests per row, without duplicates.
    """
    file_columns = [name for name in file_columns if name in rows]
    known = file_digests(path for name in file_columns for path in rows[name] if isinstance(path, str))
    parts: list[list[str]] = [[] for _ in range(len(rows))]
    for name in file_columns:
        for own, path in zip(parts, rows[name], strict=True):
            if isinstance(path, str):
                own.append(known[path])
    for name in text_columns:
        for own, text in zip(parts, rows[name], strict=True):
            own.append(text_digest(text))
    return pd.Series([list(dict.fromkeys(own)) for own in parts], index=rows.index, dtype=object)


def drop_copies(
    rows: pd.DataFrame, file_columns: Iterable[str], *, leaky: bool = False, text_columns: Iterable[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """
    Drop training examples that are copies of validation or test examples, and validation copies of test examples.

    An example is a copy if it shares the bytes of a file, or a text, with the other.

    Args:
        rows: One row per example, with `split`.
        file_columns, text_columns: As in `content_digests`.
        leaky: Whether the user asked for a leaky split: then no row is dropped, and the note counts the copies.

    Returns:
        The remaining rows, and a note for the report where there are copies.
    """
    digests = content_digests(rows, file_columns, text_columns)
    later: set[str] = set()
    copies: dict[str, list] = {}
    for split in reversed(SPLITS):
        own = digests[rows["split"] == split]
        copies[split] = [index for index, parts in own.items() if later.intersection(parts)]
        later.update(part for parts in own for part in parts)
    found = [index for indices in copies.values() for index in indices]
    if not found:
        return rows, []
    counts = " and ".join(f"{len(copies[split])} of {split}" for split in SPLITS if copies[split])
    if leaky:
        return rows, warned(f"LEAKY: byte-for-byte copies of examples in a later split: {counts}.")
    return rows.drop(index=found), warned(
        f"Dropped because they are byte-for-byte copies of examples in a later split: {counts}."
    )
