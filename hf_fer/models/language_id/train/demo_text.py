"""A small set of made-up sentences in six languages, so that text recipes run with no data and no download."""

import itertools
import random

import pandas as pd

DEMO_TEXT_NOTICE = (
    "This data set is synthetic: code combines a few words of six languages. Figures measured on it say nothing about "
    "the recognition of real texts."
)

_WORDS = {
    "de": (
        ("Die Lehrerin", "Der alte Mann", "Meine Schwester", "Das Kind", "Unser Nachbar", "Die Ärztin"),
        ("liest heute", "kauft morgen", "vergisst immer", "sucht schon wieder", "verschenkt gern", "zeichnet oft"),
        ("ein neues Buch", "das gelbe Fahrrad", "die Zeitung von gestern", "einen großen Schlüssel", "frisches Brot"),
    ),
    "en": (
        ("The teacher", "The old man", "My sister", "The child", "Our neighbour", "The doctor"),
        ("is reading", "will buy", "always forgets", "is looking for", "likes to give away", "often draws"),
        ("a new book", "the yellow bicycle", "the newspaper from yesterday", "one of the big keys", "fresh bread"),
    ),
    "fr": (
        ("La maîtresse", "Le vieil homme", "Ma sœur", "L'enfant", "Notre voisin", "La médecin"),
        ("lit aujourd'hui", "achètera demain", "oublie toujours", "cherche encore", "aime offrir", "dessine souvent"),
        ("un nouveau livre", "le vélo jaune", "le journal d'hier", "une grande clé", "du pain frais"),
    ),
    "ja": (
        ("先生は", "おじいさんは", "妹は", "子どもは", "隣の人は", "お医者さんは"),
        ("今日も", "明日", "いつも", "また", "よく", "ときどき"),
        (
            "新しい本を読みます",
            "黄色い自転車を買います",
            "昨日の新聞を忘れます",
            "大きな鍵を探しています",
            "パンを焼きます",
        ),
    ),
    "ko": (
        ("선생님은", "할아버지는", "내 여동생은", "아이는", "이웃 사람은", "의사는"),
        ("오늘", "내일", "언제나", "또다시", "자주", "가끔"),
        (
            "새 책을 읽습니다",
            "노란 자전거를 삽니다",
            "어제 신문을 잊어버립니다",
            "큰 열쇠를 찾고 있습니다",
            "빵을 굽습니다",
        ),
    ),
    "vi": (
        ("Cô giáo", "Ông cụ", "Em gái tôi", "Đứa trẻ", "Người hàng xóm", "Bác sĩ"),
        ("hôm nay đọc", "ngày mai sẽ mua", "lúc nào cũng quên", "lại đang tìm", "thích tặng", "thường hay vẽ"),
        ("một quyển sách mới", "chiếc xe đạp màu vàng", "tờ báo hôm qua", "chùm chìa khóa lớn", "ổ bánh mì nóng"),
    ),
}


def demo_texts(per_language: int = 120, seed: int = 0) -> pd.DataFrame:
    """Rows with `text`, `label` and `path`; at most 180 sentences for each of six languages."""
    records = []
    for code, parts in _WORDS.items():
        sentences = list(itertools.product(*parts))
        random.Random(seed).shuffle(sentences)
        joint, stop = ("", "。") if code == "ja" else (" ", ".")
        records += [
            {"text": joint.join(words) + stop, "label": code, "path": f"demo {code} {number}"}
            for number, words in enumerate(sentences[:per_language], 1)
        ]
    return pd.DataFrame(records)
