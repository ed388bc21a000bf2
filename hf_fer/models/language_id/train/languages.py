"""Reads ISO 639 codes and language names, and writes them in one form: ISO 639-1 if there is a code, else 639-3."""

import re

from iso639 import Lang
from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue

from hf_fer.data.loading import DataError

TAG = re.compile(r"([A-Za-z]{2,3})((?:[-_]\w+)*)$")

# English names in common use that ISO 639's tables lack, or contain only as part of a longer name.
COMMON_NAMES = {
    "azeri": "az",
    "bahasa indonesia": "id",
    "bahasa malaysia": "ms",
    "bahasa melayu": "ms",
    "bangla": "bn",
    "bokmal": "nb",
    "bokmål": "nb",
    "cantonese": "yue",
    "farsi": "fa",
    "greek": "el",
    "kiswahili": "sw",
    "kurmanji": "kmr",
    "mandarin": "cmn",
    "modern greek": "el",
    "nynorsk": "nn",
    "simplified chinese": "zh-Hans",
    "slovene": "sl",
    "sorani": "ckb",
    "traditional chinese": "zh-Hant",
}


def language_tag(value: str) -> str:
    """
    The BCP 47 tag of a language: `vie` becomes `vi`, `zh_cn` becomes `zh-CN`, `Farsi` becomes `fa`.

    Raises:
        InvalidLanguageValue, DeprecatedLanguageValue: ISO 639 does not have the language, or has withdrawn it.
    """
    text = COMMON_NAMES.get(value.strip().casefold(), value.strip())
    tag = TAG.match(text)
    if tag is None:
        try:
            language = Lang(text)
        except InvalidLanguageValue:
            language = Lang(text.title())
        return language.pt1 or language.pt3
    language = Lang(tag[1].lower())
    return "-".join([language.pt1 or language.pt3, *map(subtag, re.split("[-_]", tag[2])[1:])])


def subtag(part: str) -> str:
    """A script as `Hant`, a region as `TW`, anything else in lower case."""
    if part.isalpha() and len(part) in (2, 4):
        return part.upper() if len(part) == 2 else part.title()
    return part.lower()


def canonical_code(value: str) -> str:
    """
    The `language_tag` of a label.

    Raises:
        DataError: ISO 639 does not have the language, or has withdrawn it; the message names the replacement.
    """
    try:
        return language_tag(value)
    except DeprecatedLanguageValue as error:
        remedy = f"use {error.change_to!r}" if error.change_to else "use the code of the language that is meant"
        raise DataError(f"{value!r} was withdrawn from ISO 639: {remedy}, or pass --label_codes as_is.") from error
    except InvalidLanguageValue as error:
        raise DataError(
            f"{value!r} is neither an ISO 639-1 or 639-3 code nor an English language name. Correct it, or pass "
            "--label_codes as_is to take labels as they are."
        ) from error
