"""Rules that write numbers, dates, times, money and units in Vietnamese text as spoken words."""

import re
from collections.abc import Callable

from num2words import num2words

DIGITS = ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín")
UNIT_WORDS = {
    "km/h": "ki lô mét trên giờ",
    "m/s": "mét trên giây",
    "km²": "ki lô mét vuông",
    "km2": "ki lô mét vuông",
    "m²": "mét vuông",
    "m2": "mét vuông",
    "m³": "mét khối",
    "m3": "mét khối",
    "km": "ki lô mét",
    "cm": "xăng ti mét",
    "mm": "mi li mét",
    "m": "mét",
    "kg": "ki lô gam",
    "mg": "mi li gam",
    "g": "gam",
    "ha": "héc ta",
    "ml": "mi li lít",
    "l": "lít",
    "°C": "độ xê",
    "°": "độ",
    "kWh": "ki lô oát giờ",
    "kW": "ki lô oát",
    "MW": "mê ga oát",
    "W": "oát",
    "V": "vôn",
    "GB": "gi ga bai",
    "MB": "mê ga bai",
    "KB": "ki lô bai",
    "Hz": "héc",
    "kHz": "ki lô héc",
    "MHz": "mê ga héc",
    "%": "phần trăm",
    "‰": "phần nghìn",
    "VNĐ": "đồng",
    "VND": "đồng",
    "đ": "đồng",
    "₫": "đồng",
    "USD": "đô la Mỹ",
    "$": "đô la",
    "EUR": "ơ rô",
    "€": "ơ rô",
    "£": "bảng Anh",
    "¥": "yên",
}
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
_THOUSANDS = r"\d{1,3}(?:\.\d{3})+(?!\d)"
_SEVERAL_COMMAS = r"\d{1,3}(?:,\d{3}){2,}(?!\d)"
_NUMBER = rf"(?:{_SEVERAL_COMMAS}|{_THOUSANDS}|\d+)(?:[.,]\d+)?"
_UNITS = "|".join(sorted(map(re.escape, UNIT_WORDS), key=len, reverse=True))
_START = r"(?<![\w.,])"
_END = r"(?!\w|[.,]\d)"
_SIGN = r"(?P<sign>(?<!\S)[-\u2212])?"
_ROMAN_CUES = "(?i:thế kỷ|thế kỉ|thứ|quý|chương|khoá|khóa|đại hội)"
_DAY_CUES = r"(?i:ngày|mùng|mồng|hôm|sáng|trưa|chiều|tối|đêm)"


def digits_in_words(digits: str) -> str:
    """Reads digits one by one, as in telephone numbers and after the decimal comma."""
    return " ".join(DIGITS[int(digit)] for digit in digits)


def number_in_words(value: int) -> str:
    """
    A whole number in Vietnamese words, with every group of three spoken ("hai nghìn không trăm lẻ năm").

    Only groups of three digits are given to num2words: version 0.5.14 leaves out the empty hundreds of a group, rounds
    decimals to two places, reads both 3.05 and 3.5 wrongly, and misreads negative numbers.
    """
    if value < 0:
        return f"âm {number_in_words(-value)}"
    if value < 1000:
        return num2words(value, lang="vi")
    for size, name in ((10**9, "tỷ"), (10**6, "triệu"), (10**3, "nghìn")):
        if value >= size:
            head, rest = divmod(value, size)
            return f"{number_in_words(head)} {name}{_rest_in_words(rest, size)}"
    raise AssertionError("every number from 1,000 on has one of the sizes")


def _rest_in_words(rest: int, size: int) -> str:
    """The words after "nghìn", "triệu" or "tỷ": none for 0, else the next group with its hundreds, even if zero."""
    if not rest:
        return ""
    group = size // 1000
    head = rest // group
    if head == 0:
        return _rest_in_words(rest, group)
    name = {1: "", 10**3: " nghìn", 10**6: " triệu"}[group]
    tail = _rest_in_words(rest % group, group) if group > 1 else ""
    return f" {_full_group(head)}{name}{tail}"


def _full_group(value: int) -> str:
    if value >= 100:
        return num2words(value, lang="vi")
    return f"không trăm {'lẻ ' if value < 10 else ''}{num2words(value, lang='vi')}"


def written_number_in_words(written: str) -> str:
    """
    Reads a number in Vietnamese notation: a full stop between thousands, a comma before decimals.

    A full stop that is not followed by three digits is a decimal point, and several commas separate thousands. A
    number that begins with 0 is read digit by digit, except two-digit ones such as "05".
    """
    whole, decimals = _whole_and_decimals(written)
    spoken = digits_in_words(whole) if len(whole) > 2 and whole[0] == "0" else number_in_words(int(whole))
    if not decimals:
        return spoken
    short = len(decimals) <= 2 and decimals[0] != "0"
    return f"{spoken} phẩy {number_in_words(int(decimals)) if short else digits_in_words(decimals)}"


def _whole_and_decimals(written: str) -> tuple[str, str]:
    if re.fullmatch(_SEVERAL_COMMAS + r"(?:\.\d+)?", written):
        written = written.replace(",", "")
    elif found := re.match(_THOUSANDS, written):
        written = found[0].replace(".", "") + written[found.end() :]
    whole, _, decimals = written.replace(",", ".").partition(".")
    return whole, decimals


def _month(written: str) -> str:
    return "tư" if int(written) == 4 else number_in_words(int(written))


def _day_month_year(day: str, month: str, year: str | None) -> str:
    spoken = f"{number_in_words(int(day))} tháng {_month(month)}"
    return f"{spoken} năm {number_in_words(int(year))}" if year else spoken


def _date(found: re.Match[str]) -> str:
    return _day_month_year(found["day"], found["month"], found["year"])


def _cued_date(found: re.Match[str]) -> str:
    return f"{found['cue']} {_day_month_year(found['day'], found['month'], None)}"


def _month_year(found: re.Match[str]) -> str:
    return f"{found['cue']} {_month(found['month'])} năm {number_in_words(int(found['year']))}"


def _ordinal(found: re.Match[str]) -> str:
    special = {"1": "nhất", "4": "tư"}
    return f"{found['cue']} {special.get(found['number']) or number_in_words(int(found['number']))}"


def _month_only(found: re.Match[str]) -> str:
    return f"{found['cue']} {_month(found['month'])}"


def _time(found: re.Match[str]) -> str:
    spoken = f"{number_in_words(int(found['hour']))} giờ"
    if found["minute"] and int(found["minute"]):
        spoken += f" {number_in_words(int(found['minute']))}"
    seconds = found.groupdict().get("second")
    return f"{spoken} phút {number_in_words(int(seconds))} giây" if seconds else spoken


def _with_unit(found: re.Match[str]) -> str:
    sign = "âm " if found["sign"] else ""
    per = " trên " if found["per"] else ""
    return f"{sign}{written_number_in_words(found['number'])} {UNIT_WORDS[found['unit']]}{per}"


def _money_first(found: re.Match[str]) -> str:
    return f"{written_number_in_words(found['number'])} {UNIT_WORDS[found['unit']]}"


def _range(found: re.Match[str]) -> str:
    first, last = (float(".".join(_whole_and_decimals(found[name]))) for name in ("first", "last"))
    between = " đến " if first < last else " "
    return between.join(written_number_in_words(found[name]) for name in ("first", "last"))


def _fraction(found: re.Match[str]) -> str:
    return f"{number_in_words(int(found['above']))} phần {number_in_words(int(found['below']))}"


def _phone(found: re.Match[str]) -> str:
    plus = "cộng " if found[0].startswith("+") else ""
    return plus + digits_in_words(re.sub(r"\D", "", found[0]))


def _roman(found: re.Match[str]) -> str:
    values = [ROMAN[letter] for letter in found["number"]]
    total = sum(
        -value if value < following else value for value, following in zip(values, [*values[1:], 0], strict=True)
    )
    return f"{found['cue']} {number_in_words(total)}"


def _number(found: re.Match[str]) -> str:
    return ("âm " if found["sign"] else "") + written_number_in_words(found["number"])


def _beside_letters(found: re.Match[str]) -> str:
    return f" {written_number_in_words(found[0])} "


_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"[12]\d{3}"
_ROMAN_NUMBER = r"(?:X{0,3}(?:IX|IV|V?I{1,3}|V)|X{1,3})"

Rule = tuple[str, re.Pattern[str], Callable[[re.Match[str]], str]]
RULES: list[Rule] = [
    (name, re.compile(pattern), words)
    for name, pattern, words in (
        ("dates", rf"(?<!\d)(?P<year>{_YEAR})-(?P<month>0[1-9]|1[0-2])-(?P<day>[0-2][1-9]|[1-3]0|31)(?!\d)", _date),
        (
            "dates",
            rf"{_START}(?P<day>{_DAY})(?P<mark>[/.-])(?P<month>{_MONTH})(?P=mark)(?P<year>{_YEAR}){_END}",
            _date,
        ),
        ("dates", rf"\b(?P<cue>(?i:tháng))\s+(?P<month>{_MONTH})[/-](?P<year>{_YEAR}){_END}", _month_year),
        ("dates", rf"\b(?P<cue>{_DAY_CUES})\s+(?P<day>{_DAY})[/-](?P<month>{_MONTH}){_END}", _cued_date),
        ("dates", rf"\b(?P<cue>(?i:tháng))\s+(?P<month>{_MONTH}){_END}", _month_only),
        ("times", rf"{_START}(?P<hour>[01]?\d|2[0-4])(?:h|g)(?P<minute>[0-5]\d)?(?:p|ph|')?(?!\w)", _time),
        ("times", rf"{_START}(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?{_END}", _time),
        ("telephone numbers", rf"{_START}(?:\+84|0)\d{{1,3}}(?:[ .-]?\d{{3,4}}){{2}}(?!\w)", _phone),
        ("Roman numerals", rf"\b(?P<cue>{_ROMAN_CUES})\s+(?P<number>{_ROMAN_NUMBER})\b", _roman),
        ("ordinals", r"\b(?P<cue>(?i:thứ|hạng))\s+(?P<number>\d{1,3})(?!\w|[.,]\d)", _ordinal),
        ("units", rf"{_START}(?P<unit>[$€£¥])\s?(?P<number>{_NUMBER})(?!\w)", _money_first),
        (
            "units",
            rf"{_SIGN}{_START}(?P<number>{_NUMBER})\s?(?P<unit>{_UNITS})(?!\w)(?P<per>/(?=[^\W\d_]))?",
            _with_unit,
        ),
        ("ranges", rf"{_START}(?P<first>{_NUMBER})\s?[-\u2013]\s?(?P<last>{_NUMBER}){_END}", _range),
        ("fractions", rf"{_START}(?P<above>\d{{1,3}})/(?P<below>[1-9]\d{{0,3}})(?![\w/])", _fraction),
        ("numbers", rf"{_SIGN}{_START}(?P<number>{_NUMBER})(?!\w)", _number),
        ("numbers beside letters", r"[0-9]+", _beside_letters),
    )
]
"""Name, pattern and replacement, in the order of application: more specific rules come first."""
