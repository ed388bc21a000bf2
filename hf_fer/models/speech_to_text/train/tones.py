"""Tones and base letters of Vietnamese: how much of an error is the tone, how much the letter under the marks."""

import unicodedata

TONES = {"\u0300": "huyền", "\u0301": "sắc", "\u0303": "ngã", "\u0309": "hỏi", "\u0323": "nặng"}
LEVEL = "ngang"


def tone(syllable: str) -> str:
    """The tone that a syllable's mark says; `ngang` without one."""
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
    """Whether texts have marks that only Vietnamese has: one of its letters, or a tone on one that is in no other."""
    letters = {letter for text in texts for letter in unicodedata.normalize("NFC", text.lower())}
    marks = {mark for letter in letters for mark in unicodedata.normalize("NFD", letter)}
    return bool(letters & {"đ", "ơ", "ư"}) or ("\u0309" in marks and "\u0323" in marks)
