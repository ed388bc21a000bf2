"""Normalises the spelling of names in users' tables, and finds names that may mean the same."""

import difflib
import logging
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import pandas as pd

logger = logging.getLogger(__name__)

LISTED_PAIRS = 10
COMPARED_NAMES = 200
SIMILAR = 0.88
_FORMATTING = "\ufeff\u200b\u200c\u200d\u2060"
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_BETWEEN_NUMBERS = re.compile(r"(?<=\d)[\W_]+(?=\d)")


def clean_name(name: Any) -> str:
    """A name as text in Unicode form NFC, without white space or invisible characters around it."""
    text, before = unicodedata.normalize("NFC", str(name)), None
    while text != before:
        before, text = text, text.strip().strip(_FORMATTING)
    return text


def clean_names(values: pd.Series) -> pd.Series:
    """Apply `clean_name` to a column; missing and blank values become `None`."""
    spellings = {value: clean_name(value) or None for value in values.dropna().unique()}
    return pd.Series([spellings.get(value) for value in values], index=values.index, name=values.name, dtype=object)


def look_alikes(names: Iterable[str]) -> list[tuple[str, str]]:
    """
    Pairs of different names that may mean the same.

    They differ only in case, accents, punctuation, spaces or leading zeros; or, among at most 200 names, words of at
    least five letters differ in about one letter. Each name is paired with the first that looks like it.
    """
    first_of: dict[str, str] = {}
    pairs = []
    for name in sorted(set(names)):
        first = first_of.setdefault(_skeleton(name), name)
        if first != name:
            pairs.append((first, name))
    if len(first_of) <= COMPARED_NAMES:
        pairs += _similar(first_of)
    return pairs


def _skeleton(name: str) -> str:
    plain = _BETWEEN_NUMBERS.sub("-", unicodedata.normalize("NFKD", name).casefold())
    return _ZEROS.sub("", "".join(letter for letter in plain if letter.isalnum() or letter == "-").strip("-")) or name


def _similar(first_of: dict[str, str]) -> list[tuple[str, str]]:
    """Pairs of names with a `difflib` ratio of at least `SIMILAR`; names with digits differ on purpose."""
    words = [word for word in first_of if len(word) >= 5 and word.isalpha()]
    pairs = []
    for index, word in enumerate(words):
        near = difflib.get_close_matches(word, words[:index], n=1, cutoff=SIMILAR)
        pairs += [(first_of[near[0]], first_of[word])] if near else []
    return pairs


def look_alike_notes(names: Iterable[str], what: str) -> list[str]:
    """
    A note, which is also logged, on names that may mean the same; no names are merged.

    Args:
        names: Names of groups, labels or sources.
        what: Name of their column.
    """
    pairs = look_alikes(names)
    if not pairs:
        return []
    shown = ", ".join(f"{first!r} and {second!r}" for first, second in pairs[:LISTED_PAIRS])
    more = f", and {len(pairs) - LISTED_PAIRS} more pairs" if len(pairs) > LISTED_PAIRS else ""
    note = (
        f"Names in {what!r} that look alike: {shown}{more}. They count as different. If they mean the same, spell "
        "them alike; as it is, one may be in training and the other in test."
    )
    logger.warning(note)
    return [note]
