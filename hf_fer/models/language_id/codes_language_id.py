"""Reads codes and names of languages for the pipeline's `labels`, also on machines without hf_fer."""

import re

try:
    from iso639 import Lang
    from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue
except ImportError:
    Lang = None

# Copied from hf_fer.models.language_id.train.languages, down to the end of subtag
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


def same_language(label: str, known: list[str]) -> str | None:
    """The entry of `known` for the language of `label`; `None` if there is none, or iso639-lang is not installed."""
    wanted = _tag_or_none(label) if Lang else None
    return next((name for name in known if wanted and _tag_or_none(name) == wanted), None)


def _tag_or_none(name: str) -> str | None:
    try:
        return language_tag(name)
    except (DeprecatedLanguageValue, InvalidLanguageValue):
        return None
