"""Vietnamese spelling: units of a vocabulary, placement of tone marks, and the typing styles Telex and VNI.

A Vietnamese letter can carry two marks: a quality mark, which makes it another vowel (â, ê, ô, ă, ơ, ư), and a tone
mark (à, á, ả, ã, ạ). Unicode has a code point for every combination (NFC) and one for each mark (NFD).
"""

import re
import unicodedata
from collections.abc import Iterator

UNITS = ("nfc", "nfd")
TONE_PLACEMENTS = ("new", "old")
TYPING_STYLES = ("telex", "vni")

GRAVE, ACUTE, HOOK, TILDE, DOT_BELOW = "\u0300", "\u0301", "\u0309", "\u0303", "\u0323"
CIRCUMFLEX, BREVE, HORN = "\u0302", "\u0306", "\u031b"
TONES = GRAVE + ACUTE + HOOK + TILDE + DOT_BELOW
QUALITIES = CIRCUMFLEX + BREVE + HORN


def _listed(names: str) -> frozenset[str]:
    return frozenset(names.split())


ONSETS = _listed("b c ch d đ g gh gi h k kh l m n ng ngh nh p ph qu r s t th tr v x") | {""}
NUCLEI = _listed(
    "a ă â e ê i o ô ơ u ư y ai ao au ay âu ây eo êu ia iê iêu iu oa oă oai oao oay oe oeo oi ôi ơi oo ua uâ uây uê "
    "ui uô uôi uơ uy uya uyê uyu ưa ươ ươi ươu ưi ưu yê yêu"
)
CODAS = _listed("c ch m n ng nh p t") | {""}
_VOWELS = "aăâeêioôơuưy"
_MARKS = re.compile("[\u0300-\u036f]+")
_WORD = re.compile(r"[^\W_]+")
_SYLLABLE = re.compile(f"(qu(?=[{_VOWELS}])|gi(?=[{_VOWELS}])|[^{_VOWELS}]*)([{_VOWELS}]+)([^{_VOWELS}]*)")
_TWO_PLACES = ("oa", "oe", "uy")
"""Rimes whose tone mark is on the first vowel in the old style and on the second in the new style."""


def to_units(text: str, units: str) -> str:
    """
    Spell a text in the units of a vocabulary, one character per unit.

    `nfd` separates letters and marks, always in the order letter, quality, tone. Unicode's own order puts the dot
    below before the circumflex, so that "ế" and "ệ" would have their marks in different orders.

    Args:
        text: Any text; it is normalised to NFC first.
        units: `nfc` or `nfd`.

    Raises:
        ValueError: the units are unknown.
    """
    if units not in UNITS:
        raise ValueError(f"units must be one of {UNITS}, got {units!r}.")
    composed = unicodedata.normalize("NFC", text)
    if units == "nfc":
        return composed
    return _MARKS.sub(lambda run: _dot_last(run[0]), unicodedata.normalize("NFD", composed))


def from_units(spelled: str, units: str) -> str:
    """
    The inverse of `to_units`, in NFC: `from_units(to_units(x, u), u)` is the NFC form of `x`.

    Raises:
        ValueError: the units are unknown.
    """
    if units not in UNITS:
        raise ValueError(f"units must be one of {UNITS}, got {units!r}.")
    return unicodedata.normalize("NFC", spelled)


def _dot_last(marks: str) -> str:
    """Moves the dot below behind the other marks if Unicode treats both orders as the same text."""
    below = [mark for mark in marks if unicodedata.combining(mark) == unicodedata.combining(DOT_BELOW)]
    if below != [DOT_BELOW] or any(unicodedata.combining(mark) == 0 for mark in marks):
        return marks
    return marks.replace(DOT_BELOW, "") + DOT_BELOW


def split_tone(text: str) -> tuple[str, str]:
    """A text without its tone marks, in NFC, and the marks in their order; quality marks stay."""
    taken_apart = unicodedata.normalize("NFD", text)
    tones = "".join(mark for mark in taken_apart if mark in TONES)
    return unicodedata.normalize("NFC", "".join(mark for mark in taken_apart if mark not in TONES)), tones


def base_letters(text: str) -> str:
    """A text without tone and quality marks, and with d for đ."""
    taken_apart = unicodedata.normalize("NFD", text)
    plain = "".join(mark for mark in taken_apart if mark not in TONES + QUALITIES)
    return unicodedata.normalize("NFC", plain).replace("đ", "d").replace("Đ", "D")


def words(text: str) -> Iterator[re.Match[str]]:
    """Runs of letters and digits of an NFC text."""
    return _WORD.finditer(text)


def syllable_parts(toneless: str) -> tuple[str, str, str] | None:
    """Onset, vowels and coda of a Vietnamese syllable without its tone, in lower case, or `None` if it is not one."""
    lowered = toneless.lower()
    found = _SYLLABLE.fullmatch(lowered)
    if found is None:
        return None
    onset, nucleus, coda = found.groups()
    known = onset in ONSETS and nucleus in NUCLEI and coda in CODAS
    return (onset, nucleus, coda) if known else None


def place_tone(word: str, placement: str) -> str:
    """
    Place the tone mark of a Vietnamese word as a style does; other words are returned unchanged.

    Args:
        word: A word in NFC, in any case.
        placement: `new` (hoà, khoẻ, thuỷ) or `old` (hòa, khỏe, thủy). A mark that is misplaced in both styles, as in
            "qúy", moves too.
    """
    toneless, tones = split_tone(word)
    parts = syllable_parts(toneless) if len(tones) == 1 else None
    if parts is None or len(toneless) != len(word):
        return word
    onset, nucleus, coda = parts
    if onset == "gi" and split_tone(word[1])[1]:
        return word  # "gịa" may be g with the rime ia
    place = len(onset) + _tone_place(nucleus, coda, placement)
    letters = list(toneless)
    letters[place] = unicodedata.normalize("NFC", letters[place] + tones)
    return "".join(letters)


def _tone_place(nucleus: str, coda: str, placement: str) -> int:
    marked = [index for index, vowel in enumerate(nucleus) if vowel in "ăâêôơư"]
    if marked:
        return marked[-1]
    if coda or len(nucleus) == 1:
        return len(nucleus) - 1
    if len(nucleus) == 3:
        return 1
    return int(nucleus in _TWO_PLACES and placement == "new")


def place_tones(text: str, placement: str) -> str:
    """`place_tone` of every word of an NFC text; raises ValueError if the placement is unknown."""
    if placement not in TONE_PLACEMENTS:
        raise ValueError(f"tone placement must be one of {TONE_PLACEMENTS}, got {placement!r}.")
    return _WORD.sub(lambda word: place_tone(word[0], placement), text)


TELEX_TONES = {"f": GRAVE, "s": ACUTE, "r": HOOK, "x": TILDE, "j": DOT_BELOW, "z": ""}
VNI_TONES = {"2": GRAVE, "1": ACUTE, "3": HOOK, "4": TILDE, "5": DOT_BELOW, "0": ""}
VNI_QUALITIES = {"6": CIRCUMFLEX, "7": HORN, "8": BREVE}
TAKES = {CIRCUMFLEX: "aeo", BREVE: "a", HORN: "ou"}
"""Vowels that may carry a quality mark."""


def typed_to_unicode(text: str, style: str) -> str:
    """
    Convert words in a typing style to Unicode; a word that does not give a Vietnamese syllable is left unchanged.

    Keys of marks may follow their letter ("cuxng", "cu4ng") or the word ("cungx", "cung4"). Nothing tells whether
    "has" is a name or "há", so this is only for transcripts that are typed in the style throughout.

    Args:
        text: A text in NFC.
        style: `telex` or `vni`.

    Raises:
        ValueError: the style is unknown.
    """
    if style not in TYPING_STYLES:
        raise ValueError(f"typing style must be one of {TYPING_STYLES}, got {style!r}.")
    return _WORD.sub(lambda word: _typed_word(word[0], style), text)


def _typed_word(word: str, style: str) -> str:
    if not word.isascii() or not word[0].isalpha():
        return word
    read = _read_telex(word) if style == "telex" else _read_vni(word)
    if read is None or syllable_parts("".join(read[0])) is None:
        return word
    letters, tone = read
    if "".join(letters[-2:]).lower() == "ươ":  # ươ always has a coda: "thuowr" is "thuở"
        letters[-2] = "U" if letters[-2] == "Ư" else "u"
    toneless = "".join(letters)
    if not tone:
        return toneless
    first_vowel = next(index for index, letter in enumerate(toneless) if letter.lower() in _VOWELS)
    begun = unicodedata.normalize("NFC", toneless[: first_vowel + 1] + tone + toneless[first_vowel + 1 :])
    onset = syllable_parts(toneless)[0]
    if onset == "gi":  # the tone comes after the i of the onset
        begun = unicodedata.normalize("NFC", toneless[:2] + toneless[2] + tone + toneless[3:])
    return place_tone(begun, "new")


def _read_telex(word: str) -> tuple[list[str], str] | None:
    letters: list[str] = []
    tone = ""
    for key in word:
        low = key.lower()
        has_vowel = any(letter.lower() in _VOWELS for letter in letters)
        if low in TELEX_TONES and has_vowel:
            if tone:
                return None
            tone = TELEX_TONES[low]
        elif low == "d" and letters and letters[0].lower() == "d" and (len(letters) == 1 or has_vowel):
            letters[0] = "Đ" if letters[0] == "D" else "đ"
        elif low == "w":
            if not _add_mark(letters, _mark_of_w("".join(letters).lower())):
                return None
        elif low in "aeo" and letters and letters[-1].lower() == low:
            _add_mark(letters, CIRCUMFLEX)
        else:
            letters.append(key)
    return letters, tone


def _mark_of_w(letters: str) -> str:
    """The mark of Telex's w after some letters, horn or breve: "muaw" is "mưa", "quaw" and "hoaw" have ă."""
    a = letters.rfind("a")
    if a < 0 or "uo" in letters:
        return HORN
    return HORN if letters[:a].endswith("u") and not letters[:a].endswith("qu") else BREVE


def _read_vni(word: str) -> tuple[list[str], str] | None:
    letters: list[str] = []
    tone = ""
    for key in word:
        if key in VNI_TONES:
            if tone:
                return None
            tone = VNI_TONES[key]
        elif key in VNI_QUALITIES:
            if not _add_mark(letters, VNI_QUALITIES[key]):
                return None
        elif key == "9":
            if letters[0].lower() != "d":
                return None
            letters[0] = "Đ" if letters[0] == "D" else "đ"
        elif key.isdigit():
            return None
        else:
            letters.append(key)
    return letters, tone


def _add_mark(letters: list[str], mark: str) -> bool:
    """Adds a mark to the last plain vowel that takes it, a horn to both of "uo"; returns whether there is one."""
    places = [index for index, letter in enumerate(letters) if letter.lower() in TAKES[mark]]
    if not places:
        return False
    last = places[-1]
    pair = mark == HORN and last > 0 and letters[last].lower() == "o" and letters[last - 1].lower() == "u"
    after_q = last > 1 and letters[last - 2].lower() == "q"
    for place in (last - 1, last) if pair and not after_q else (last,):
        letters[place] = unicodedata.normalize("NFC", letters[place] + mark)
    return True


__all__ = [
    "TONE_PLACEMENTS",
    "TYPING_STYLES",
    "UNITS",
    "base_letters",
    "from_units",
    "place_tone",
    "place_tones",
    "split_tone",
    "syllable_parts",
    "to_units",
    "typed_to_unicode",
    "words",
]
