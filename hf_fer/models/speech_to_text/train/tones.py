"""Tones and base letters of Vietnamese, to tell errors of tones from errors of the letters under the marks."""

import unicodedata

TONES = {"\u0300": "huyền", "\u0301": "sắc", "\u0303": "ngã", "\u0309": "hỏi", "\u0323": "nặng"}
LEVEL = "ngang"


def tone(syllable: str) -> str:
    """The tone of a syllable's mark; `ngang` without one."""
    marks = (letter for letter in unicodedata.normalize("NFD", syllable) if letter in TONES)
    return next((TONES[mark] for mark in marks), LEVEL)


def tones(text: str) -> str:
    """The tones of a text's words, joined by spaces."""
    return " ".join(map(tone, text.split()))


def base_letters(text: str) -> str:
    """A text without tones and vowel marks: `đường` is `duong`."""
    plain = unicodedata.normalize("NFD", text.replace("đ", "d").replace("Đ", "D"))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def is_vietnamese(texts: list[str]) -> bool:
    """Whether texts have letters (đ, ơ, ư) or a combination of tone marks that only Vietnamese has."""
    letters = {letter for text in texts for letter in unicodedata.normalize("NFC", text.lower())}
    marks = {mark for letter in letters for mark in unicodedata.normalize("NFD", letter)}
    return bool(letters & {"đ", "ơ", "ư"}) or ("\u0309" in marks and "\u0323" in marks)
