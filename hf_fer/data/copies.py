"""The same example twice: found by its bytes, whatever its name, and kept on one side of a split."""

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
"""Hexadecimal digits that are kept of a SHA-256: 128 bits."""


def text_digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, cut to `DIGEST_LENGTH` digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST_LENGTH]


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's bytes, cut to `DIGEST_LENGTH` digits; of its path, where it is no file but a key in one."""
    try:
        with Path(path).open("rb") as file:
            found = hashlib.sha256()
            while chunk := file.read(CHUNK):
                found.update(chunk)
            return found.hexdigest()[:DIGEST_LENGTH]
    except OSError:
        return text_digest(os.fspath(path))


def file_digests(paths: Iterable[str], workers: int = 4) -> dict[str, str]:
    """`file_digest` of each path; remembered in the cache while size and time of change stay the same."""
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
    What each row's example is made of, as a list of digests.

    Args:
        rows: One row per example.
        file_columns: Columns of paths; what is missing does not count.
        text_columns: Columns of texts.
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
    Leave out of training what is in validation or test, and out of validation what is in test, by its bytes.

    Args:
        rows: One row per example, with `split`.
        file_columns, text_columns: As in `content_digests`.
        leaky: The split is one that leaks and was asked for by name: all rows stay, and the note says how many copies.

    Returns:
        The rows that stay, and a note for the report where there are copies.
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
        return rows, warned(f"LEAKY: copies, byte for byte, of examples of a later split: {counts}.")
    return rows.drop(index=found), warned(
        f"Left out as copies, byte for byte, of examples of a later split: {counts}."
    )
