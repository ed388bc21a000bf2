"""ISO 639 codes as they come, in the one form that this project writes: 639-1 where there is one, else 639-3."""

import re

from iso639 import Lang
from iso639.exceptions import DeprecatedLanguageValue, InvalidLanguageValue

from .loading import DataError

_TAG = re.compile(r"([A-Za-z]{2,3})(?:[-_](\w+))?$")


def canonical_code(value: str) -> str:
    """
    A language as one code: `vie`, `VI` and `Vietnamese` are `vi`, `haw` stays, `eng_Latn` is `en-Latn`.

    Raises:
        DataError: ISO 639 does not know it, or has withdrawn it; the message has what replaced it.
    """
    text = value.strip()
    tag = _TAG.match(text)
    code, rest = (tag[1].lower(), tag[2]) if tag else (text, None)
    try:
        language = Lang(code)
    except DeprecatedLanguageValue as error:
        remedy = f"use {error.change_to!r}" if error.change_to else "use the code of the language that is meant"
        raise DataError(f"{value!r} was withdrawn from ISO 639: {remedy}, or pass --label_codes as_is.") from error
    except InvalidLanguageValue as error:
        raise DataError(
            f"{value!r} is neither an ISO 639-1 or 639-3 code nor an English language name. Correct it, or pass "
            "--label_codes as_is to take labels as they are."
        ) from error
    short = language.pt1 or language.pt3
    return f"{short}-{rest}" if rest else short
