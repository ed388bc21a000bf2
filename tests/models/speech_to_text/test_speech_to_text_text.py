"""Vietnamese spelling and the words of numbers: round trips over random text, and readings that people would check."""

import csv
import os
import random
import unicodedata
from pathlib import Path

import pytest

from hf_fer.models.speech_to_text.text_speech_to_text import (
    CODAS,
    DOT_BELOW,
    NUCLEI,
    ONSETS,
    TELEX_TONES,
    TONES,
    UNITS,
    VNI_TONES,
    base_letters,
    from_units,
    place_tone,
    split_tone,
    syllable_parts,
    to_units,
    typed_to_unicode,
)
from hf_fer.models.speech_to_text.train.numbers import number_in_words, written_number_in_words
from hf_fer.models.speech_to_text.train.text import TextNormalizer

VOWEL_KEYS = {
    "telex": {"â": "aa", "ê": "ee", "ô": "oo", "ă": "aw", "ơ": "ow", "ư": "uw", "đ": "dd"},
    "vni": {"â": "a6", "ê": "e6", "ô": "o6", "ă": "a8", "ơ": "o7", "ư": "u7", "đ": "d9"},
}
MANY = 400


def syllables(count, seed=0):
    """Random well-formed Vietnamese syllables with a tone, in the new placement."""
    draw = random.Random(seed)
    onsets, nuclei, codas = (sorted(part - {"oo"}) for part in (ONSETS, NUCLEI, CODAS))
    while count:
        plain = draw.choice(onsets) + draw.choice(nuclei) + draw.choice(codas)
        tone = draw.choice(["", *TONES])
        first = next((i for i, letter in enumerate(plain) if base_letters(letter) in "aeiouy"), None)
        unwritten = plain.endswith("ươ") or ("uơ" in plain and not plain.endswith("ơ"))
        if unwritten or syllable_parts(plain) is None or plain.startswith(("gi", "qu")):
            continue
        count -= 1
        yield place_tone(unicodedata.normalize("NFC", plain[: first + 1] + tone + plain[first + 1 :]), "new")


@pytest.mark.parametrize("units", UNITS)
def test_units_give_back_every_text(units):
    draw = random.Random(1)
    marks = "ְ̛̣̀́̉̃̂̆̈͡"
    for _ in range(MANY):
        text = "".join(draw.choice("aeoud đĐĂ ệ각ǎ한ß" + marks) for _ in range(draw.randint(0, 12)))
        assert from_units(to_units(text, units), units) == unicodedata.normalize("NFC", text)


def test_nfd_spells_marks_in_one_order():
    assert to_units("ế", "nfd") == "e\u0302\u0301"
    assert to_units("ệ", "nfd") == "e\u0302" + DOT_BELOW
    assert to_units("đ", "nfd") == "đ"
    with pytest.raises(ValueError, match="units must be one of"):
        to_units("a", "phones")


def test_tone_placement_is_one_and_is_stable():
    pairs = {"hoà": "hòa", "khoẻ": "khỏe", "thuỷ": "thủy", "Hoà": "Hòa", "HUỶ": "HỦY"}
    for new, old in pairs.items():
        assert place_tone(old, "new") == new
        assert place_tone(new, "old") == old
    for same in ("quý", "già", "giếng", "gìn", "toàn", "xoài", "khuỷu", "ngoèo", "mía", "mùa", "café", "señor", "gịa"):
        assert place_tone(same, "new") == place_tone(same, "old") == same
    assert place_tone("qúy", "old") == "quý"
    for word in syllables(MANY):
        assert place_tone(place_tone(word, "old"), "new") == word
        assert split_tone(place_tone(word, "old")) == split_tone(word)


@pytest.mark.parametrize(("style", "tones"), [("telex", TELEX_TONES), ("vni", VNI_TONES)])
def test_typed_syllables_are_read_back(style, tones):
    keys = {mark: key for key, mark in tones.items() if mark}
    for word in syllables(MANY, seed=2):
        toneless, tone = split_tone(word)
        typed = "".join(VOWEL_KEYS[style].get(letter, letter) for letter in toneless)
        assert typed_to_unicode(typed + keys.get(tone, ""), style) == word
        place = next((i for i, letter in enumerate(word) if split_tone(letter)[1]), None)
        if place is not None:
            beside = [VOWEL_KEYS[style].get(letter, letter) for letter in toneless]
            beside[place] += keys[tone]
            assert typed_to_unicode("".join(beside), style) == word


def test_what_is_not_typed_vietnamese_stays():
    text = "fax class windows 2024 B52 hello wifi Đắk"
    assert typed_to_unicode(text, "telex") == typed_to_unicode(text, "vni") == text
    assert (
        typed_to_unicode("thuowr giaf giaan hoawcj muaw quawn DDieenj nguoiwf", "telex")
        == "thuở già giân hoặc mưa quăn Điện người"
    )
    assert typed_to_unicode("Vie65t d9u7o7c5 ba8ng2 quy1", "vni") == "Việt được bằng quý"


def test_typed_transcripts_of_vivos():
    manifest = Path(os.environ.get("HF_FER_DATA", "../shared/data"), "vi_vivos8", "manifest.csv")
    if not manifest.is_file():
        pytest.skip("the recordings are not here")
    with manifest.open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))["transcript_telex_style"]
    assert typed_to_unicode(first, "telex") == "cũng lên tiếng ủng hộ các kiến nghị này"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "không"),
        (15, "mười lăm"),
        (21, "hai mươi mốt"),
        (105, "một trăm lẻ năm"),
        (1000, "một nghìn"),
        (1024, "một nghìn không trăm hai mươi bốn"),
        (2005, "hai nghìn không trăm lẻ năm"),
        (1_000_005, "một triệu không trăm lẻ năm"),
        (3_000_000_000_000, "ba nghìn tỷ"),
        (-7, "âm bảy"),
    ],
)
def test_whole_numbers(number, words):
    assert number_in_words(number) == words


def test_numbers_have_different_words():
    draw = random.Random(3)
    numbers = {draw.randrange(10 ** draw.randint(1, 14)) for _ in range(MANY)}
    assert len({number_in_words(number) for number in numbers}) == len(numbers)


def test_decimals_are_not_rounded():
    assert written_number_in_words("3,5") == "ba phẩy năm"
    assert written_number_in_words("3.05") == "ba phẩy không năm"
    assert written_number_in_words("3,14159") == "ba phẩy một bốn một năm chín"
    assert (
        written_number_in_words("1.234.567,5") == "một triệu hai trăm ba mươi bốn nghìn năm trăm sáu mươi bảy phẩy năm"
    )
    assert written_number_in_words("1,234,567.5") == written_number_in_words("1.234.567,5")


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("ngày 5/9/2024", "ngày năm tháng chín năm hai nghìn không trăm hai mươi bốn"),
        ("2024-10-10", "mười tháng mười năm hai nghìn không trăm hai mươi bốn"),
        ("tháng 4/2020", "tháng tư năm hai nghìn không trăm hai mươi"),
        ("8h30 và 23:59", "tám giờ ba mươi và hai mươi ba giờ năm mươi chín"),
        ("gọi 0912 345 678", "gọi không chín một hai ba bốn năm sáu bảy tám"),
        ("3,5% của 50.000đ", "ba phẩy năm phần trăm của năm mươi nghìn đồng"),
        ("60 km/h, 30m2, -3°C", "sáu mươi ki lô mét trên giờ ba mươi mét vuông âm ba độ xê"),
        ("05 giải, 007, 14 mg/lít", "năm giải không không bảy mười bốn mi li gam trên lít"),
        ("thế kỷ XIX, thứ 4", "thế kỷ mười chín thứ tư"),
        (
            "2010-2015; 5,5 - 6,5",
            "hai nghìn không trăm mười đến hai nghìn không trăm mười lăm năm phẩy năm đến sáu phẩy năm",
        ),
        ("COVID-19 ở Q.1, TP.HCM", "covid mười chín ở quận một thành phố hồ chí minh"),
        ("A & B, v.v.", "a và b vân vân"),
        ("Thủy, HOÀ!", "thuỷ hoà"),
        ("don't  stop", "don't stop"),
    ],
)
def test_written_forms_are_spoken(written, spoken):
    assert TextNormalizer()(written) == spoken


def test_no_word_is_deleted_and_a_second_pass_changes_nothing():
    draw = random.Random(4)
    vocabulary = [
        *syllables(60, seed=5),
        "TP.HCM",
        "5/9/2024",
        "1.000",
        "café",
        "#",
        "-5",
        "3km",
        "«x»",
        "naïve",
        "ĐẮK",
    ]
    for _ in range(MANY):
        text = " ".join(draw.choices(vocabulary, k=draw.randint(1, 12)))
        normalize = TextNormalizer()
        spoken = normalize(text)
        assert normalize(spoken) == spoken
        kept = [word.lower() for word in text.split() if word.isalpha()]
        assert all(place_tone(word, "new") in spoken.split() for word in kept)
        assert len(spoken.split()) >= sum(any(map(str.isalnum, word)) for word in text.split())


def test_changes_are_counted_with_examples():
    normalize = TextNormalizer()
    normalize("Thủy có 3 con")
    normalize("a\u0301 b")
    assert normalize.changes.examples["Unicode form NFC"] == [("a\u0301", "á")]
    normalize("Thủy có 3 con")
    assert normalize.changes.counts["numbers"] == 2
    assert normalize.changes.examples["numbers"] == [("3", "ba")]
    assert normalize.changes.examples["tone placement"] == [("Thủy", "Thuỷ")]


def test_other_languages_and_unknown_choices():
    assert TextNormalizer("en")("I paid 1,250 for 3") == "i paid one thousand two hundred and fifty for three"
    for field in ({"language": "xx"}, {"typing": "viqr"}, {"tone_placement": "middle"}):
        with pytest.raises(ValueError, match="must be one of"):
            TextNormalizer(**field)
