"""Texts that the Hub's widget offers to try a model with; they are written here, and nobody's data."""

from collections.abc import Sequence

from ..codes_language_id import same_language

TEXTS = {
    "en": ("English", "Shall we meet at the station after lunch?"),
    "vi": ("Tiếng Việt", "Chiều nay trời mát, chúng ta đi dạo quanh hồ nhé?"),
    "de": ("Deutsch", "Wollen wir uns nach dem Essen am Bahnhof treffen?"),
    "fr": ("Français", "On se retrouve à la gare après le déjeuner ?"),
    "es": ("Español", "¿Quedamos en la estación después de comer?"),
    "pt": ("Português", "Vamos nos encontrar na estação depois do almoço?"),
    "it": ("Italiano", "Ci vediamo alla stazione dopo pranzo?"),
    "nl": ("Nederlands", "Zullen we na de lunch bij het station afspreken?"),
    "pl": ("Polski", "Spotkamy się na dworcu po obiedzie?"),
    "id": ("Bahasa Indonesia", "Apakah kita bertemu di stasiun setelah makan siang?"),
    "ru": ("Русский", "Встретимся на вокзале после обеда?"),
    "zh": ("中文", "我们午饭后在车站见面吧。"),
    "ja": ("日本語", "昼ご飯のあと、駅で会いませんか。"),
    "ko": ("한국어", "점심 먹고 역에서 만날까요?"),
}
"""Code -> name of the language, and a text in it."""
MOST = 6


def widget_texts(labels: Sequence[str]) -> list[dict[str, str]]:
    """Up to `MOST` texts in languages that the model has, as entries of the Hub's `widget`."""
    known = [text for code, text in TEXTS.items() if same_language(code, list(labels)) is not None]
    return [{"text": text, "example_title": name} for name, text in known[:MOST]]
