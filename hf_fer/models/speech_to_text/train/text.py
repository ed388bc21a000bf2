"""Converts written transcripts to spoken form, and counts every change."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from num2words import CONVERTER_CLASSES, num2words

from ..text_speech_to_text import TONE_PLACEMENTS, TYPING_STYLES, place_tone, typed_to_unicode
from .numbers import RULES

SHOWN_EXAMPLES = 5
ABBREVIATIONS = {
    "TP.HCM": "thành phố Hồ Chí Minh",
    "TP. HCM": "thành phố Hồ Chí Minh",
    "TPHCM": "thành phố Hồ Chí Minh",
    "TP.": "thành phố",
    "TX.": "thị xã",
    "Q.": "quận",
    "P.": "phường",
    "PGS.": "phó giáo sư",
    "GS.": "giáo sư",
    "TS.": "tiến sĩ",
    "ThS.": "thạc sĩ",
    "BS.": "bác sĩ",
    "KS.": "kỹ sư",
    "UBND": "uỷ ban nhân dân",
    "HĐND": "hội đồng nhân dân",
    "THPT": "trung học phổ thông",
    "THCS": "trung học cơ sở",
    "CSGT": "cảnh sát giao thông",
    "BHXH": "bảo hiểm xã hội",
    "BHYT": "bảo hiểm y tế",
    "LHQ": "Liên Hợp Quốc",
    "NXB": "nhà xuất bản",
    "v.v.": "vân vân",
    "v.v": "vân vân",
}
"""Vietnamese abbreviations that are read in full; they are case-sensitive."""
SYMBOLS = {"&": "và", "@": "a còng", "+": "cộng", "=": "bằng"}
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff]")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['\u2019](?=[^\W\d_])")
_RUN = re.compile(r"\S+")
_WORD = re.compile(r"[^\W_]+")
_OTHER_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")


@dataclass
class TextChanges:
    """
    Number of changes of each kind, with the first examples.

    Args:
        counts: Kind -> number of changes.
        examples: Kind -> up to five pairs of the text before and after.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, before: str, after: str) -> None:
        """Count a change, unless both texts are equal."""
        if before == after:
            return
        self.counts[kind] += 1
        pair = (before.strip(), after.strip())
        if len(self.examples[kind]) < SHOWN_EXAMPLES and pair not in self.examples[kind]:
            self.examples[kind].append(pair)


class TextNormalizer:
    """
    Normalises transcripts to one spelling. Numbers and symbols become words, and no word is deleted.

    Args:
        language: `vi` reads numbers, dates, times, money, units and abbreviations; for any other language of num2words
            only plain numbers are read.
        typing: `telex` or `vni` if all transcripts are typed in that style.
        tone_placement: `new` (hoà), `old` (hòa), or `None` to leave tones unchanged.
        lowercase: Whether to convert to lower case.
        punctuation: Whether to keep punctuation; otherwise each mark becomes a space.
        abbreviations: Abbreviations in addition to `ABBREVIATIONS`.

    Raises:
        ValueError: `language`, `typing` or `tone_placement` is unknown.
    """

    def __init__(
        self,
        language: str = "vi",
        typing: str | None = None,
        tone_placement: str | None = "new",
        lowercase: bool = True,
        punctuation: bool = False,
        abbreviations: Mapping[str, str] | None = None,
    ):
        for name, value, known in (
            ("language", language, tuple(CONVERTER_CLASSES)),
            ("typing", typing, (None, *TYPING_STYLES)),
            ("tone_placement", tone_placement, (None, *TONE_PLACEMENTS)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {list(known)}, got {value!r}.")
        self.language, self.typing, self.tone_placement = language, typing, tone_placement
        self.lowercase, self.punctuation = lowercase, punctuation
        known_abbreviations = ABBREVIATIONS if language == "vi" else {}
        self.abbreviations = {**known_abbreviations, **(abbreviations or {})}
        self.changes = TextChanges()
        self._short = _any_of(self.abbreviations)

    def __call__(self, text: str) -> str:
        """The normalised transcript in NFC, with single spaces between words."""
        composed = unicodedata.normalize("NFC", text)
        if composed != text:
            self._each("Unicode form NFC", _RUN, text, lambda found: unicodedata.normalize("NFC", found[0]))
        text = composed
        text = self._each("invisible characters", _INVISIBLE, text, lambda found: "")
        if self.typing:
            style = self.typing
            text = self._each(f"{style} to Unicode", _WORD, text, lambda found: typed_to_unicode(found[0], style))
        if self._short:
            text = self._each("abbreviations", self._short, text, self._in_full)
        text = self._numbers(text)
        if self.tone_placement:
            placement = self.tone_placement
            text = self._each("tone placement", _WORD, text, lambda found: place_tone(found[0], placement))
        if not self.punctuation:
            text = self._without_punctuation(text)
        if self.lowercase:
            text = self._each("lower case", _WORD, text, lambda found: found[0].lower()).lower()
        return " ".join(text.split())

    def _in_full(self, found: re.Match[str]) -> str:
        return self.abbreviations[found[0]] + (" " if found[0].endswith(".") else "")

    def _numbers(self, text: str) -> str:
        if self.language != "vi":
            return self._each("numbers", _OTHER_NUMBER, text, self._foreign_number)
        for kind, pattern, words in RULES:
            text = self._each(kind, pattern, text, words)
        symbols = re.compile("|".join(map(re.escape, SYMBOLS)))
        return self._each("symbols", symbols, text, lambda found: f" {SYMBOLS[found[0]]} ")

    def _foreign_number(self, found: re.Match[str]) -> str:
        return f" {num2words(found[0].replace(',', ''), lang=self.language)} "

    def _without_punctuation(self, text: str) -> str:
        kept = _APOSTROPHE.sub("\0", text)
        marks = [
            character for character in kept if unicodedata.category(character)[0] in "PSC" and character not in "\0"
        ]
        for mark in marks:
            if not mark.isspace():
                self.changes.add(f"punctuation {mark}", mark, " ")
        blank = dict.fromkeys(map(ord, marks), " ")
        return kept.translate(blank).replace("\0", "'")

    def _each(self, kind: str, pattern: re.Pattern[str], text: str, words: Callable[[re.Match[str]], str]) -> str:
        def replaced(found: re.Match[str]) -> str:
            after = words(found)
            self.changes.add(kind, found[0], after)
            return after

        return pattern.sub(replaced, text)


def _any_of(abbreviations: Mapping[str, str]) -> re.Pattern[str] | None:
    if not abbreviations:
        return None
    longest_first = sorted(abbreviations, key=len, reverse=True)
    endings = [re.escape(name) + ("" if name.endswith(".") else r"(?!\w)") for name in longest_first]
    return re.compile(rf"(?<![\w.])(?:{'|'.join(endings)})")
