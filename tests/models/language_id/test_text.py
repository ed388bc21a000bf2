"""Reading and cleaning texts: every way they come in, and every way they can be broken."""

import gzip
import json
import unicodedata

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_fer.data.loading import DataError
from hf_fer.models.language_id.train.languages import canonical_code
from hf_fer.models.language_id.train.text import TextFormat, canonical_labels, clean, normalize, read_texts

ROWS = [("vi", 'Tôi nói: "chào".'), ("nan", "Lí hó, tāi-ke hó"), ("en", "Hello, world")]


def write_table(folder, ending):
    table = pd.DataFrame(ROWS, columns=["lang", "text"])
    path = folder / f"texts{ending}"
    if ending == ".parquet":
        table.to_parquet(path)
    elif ending.startswith(".jsonl"):
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    elif ending.startswith(".tsv"):
        lines = ["lang\ttext", *("\t".join(row) for row in ROWS)]
        data = ("\n".join(lines) + "\n").encode()
        path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    else:
        table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_tables_give_the_same_rows(tmp_path, ending):
    path = write_table(tmp_path, ending)
    rows, skipped = read_texts(str(path), TextFormat())
    assert list(zip(rows["label"], rows["text"], strict=True)) == ROWS
    assert rows["path"].iloc[1] == f"{path} row 2"
    assert skipped == []


def test_named_columns_and_sources(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("site,tongue,body,lang\na.org,vi,xin chào,x\n", encoding="utf-8")
    rows, _ = read_texts(str(path), TextFormat(text_column="body", label_column="tongue", source_column="site"))
    assert rows.iloc[0][["text", "label", "source"]].tolist() == ["xin chào", "vi", "a.org"]


@pytest.mark.parametrize(
    ("header", "form", "message"),
    [
        ("lang,words", TextFormat(), r"has no text column.*text_column.*\['lang', 'words'\]"),
        ("text,words", TextFormat(), r"has no label column.*label_column"),
        ("lang,text", TextFormat(text_column="body"), r"has no column 'body' \(text_column\)"),
    ],
)
def test_missing_column(tmp_path, header, form, message):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_texts(str(path), form)


def test_wrong_encoding_names_line_and_remedy(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"lang,text\nen,fine\nfr,d\xe9j\xe0 vu\n")
    with pytest.raises(DataError, match=r"not utf-8 at line 3. Pass --encoding"):
        read_texts(str(path), TextFormat())
    rows, _ = read_texts(str(path), TextFormat(encoding="cp1252"))
    assert rows["text"].tolist() == ["fine", "déjà vu"]
    with pytest.raises(DataError, match="'nonsense' is unknown to Python"):
        read_texts(str(path), TextFormat(encoding="nonsense"))


def test_utf16_is_recognised_and_a_bom_is_not_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("lang,text\nvi,xin chào\n", encoding="utf-16")
    assert read_texts(str(path), TextFormat())[0]["label"].tolist() == ["vi"]
    path.write_text("lang,text\nvi,xin chào\n", encoding="utf-8-sig")
    assert read_texts(str(path), TextFormat())[0]["label"].tolist() == ["vi"]


@pytest.mark.parametrize(("line", "message"), [("{broken", "line 2 is not JSON"), ("[1]", "line 2 is not a JSON obj")])
def test_broken_json_line(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"lang": "vi", "text": "xin"}) + f"\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_texts(str(path), TextFormat())


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="file not found"):
        read_texts(str(tmp_path / "none.csv"), TextFormat())
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"cannot read \.xlsx"):
        read_texts(str(tmp_path / "a.xlsx"), TextFormat())


def test_rows_without_label_are_listed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("lang,text\nen,one\n,two\n", encoding="utf-8")
    rows, skipped = read_texts(str(path), TextFormat())
    assert rows["text"].tolist() == ["one"]
    assert skipped == [{"path": f"{path} row 2", "reason": "has no label"}]


def test_given_split_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("lang,text,split\nen,one,Dev\nen,two,train\n", encoding="utf-8")
    assert read_texts(str(path), TextFormat())[0]["split"].tolist() == ["validation", "train"]
    path.write_text("lang,text,split\nen,one,later\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 1 has split 'later'"):
        read_texts(str(path), TextFormat())
    path.write_text("lang,text,split\nen,one,\nen,two,\n", encoding="utf-8")
    assert "split" not in read_texts(str(path), TextFormat())[0]
    path.write_text("lang,text,split\nen,one,train\nen,two,\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 2 has no split, though others have"):
        read_texts(str(path), TextFormat())


def test_a_named_column_is_found_in_any_unicode_form(tmp_path):
    path = tmp_path / "a.csv"
    name = unicodedata.normalize("NFD", "văn bản")
    path.write_text(f"{name},lang\nxin chào,vi\n", encoding="utf-8")
    for wanted in (name, "văn bản"):
        assert read_texts(str(path), TextFormat(text_column=wanted))[0]["text"].tolist() == ["xin chào"]


def test_folder_per_language(tmp_path):
    for place, content in (("vi/a.txt", "xin\nchào\n"), ("en/sub/b.txt", "hello")):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text(content, encoding="utf-8")
    (tmp_path / "en" / "bad.txt").write_bytes(b"\xff\xfe\x00\x01\xd8")
    rows, skipped = read_texts(str(tmp_path), TextFormat())
    assert sorted(zip(rows["label"], rows["text"], strict=True)) == [("en", "hello"), ("vi", "xin\nchào\n")]
    assert [entry["path"] for entry in skipped] == [str(tmp_path / "en" / "bad.txt")]
    rows, _ = read_texts(str(tmp_path), TextFormat(text_unit="line"))
    assert rows[rows["label"] == "vi"]["text"].tolist() == ["xin", "chào"]
    assert rows["source"].nunique() == 2


def test_hidden_files_are_no_texts_and_endings_have_any_case(tmp_path):
    for name in ("en/1.txt", "en/2.TXT", "en/._1.txt", ".git/3.txt", "vi/.cache/4.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    rows, skipped = read_texts(str(tmp_path), TextFormat())
    assert sorted(rows["text"]) == ["en/1.txt", "en/2.TXT"]
    assert skipped == []


def test_folder_per_split(tmp_path):
    for split in ("train", "val", "test"):
        (tmp_path / split / "vi").mkdir(parents=True)
        (tmp_path / split / "vi" / "a.txt").write_text("xin chào", encoding="utf-8")
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "train" / "a.txt").write_text("not a text", encoding="utf-8")
    rows, _ = read_texts(str(tmp_path), TextFormat())
    assert sorted(rows["split"]) == ["test", "train", "validation"]
    assert set(rows["label"]) == {"vi"}


def test_folder_without_texts(tmp_path):
    (tmp_path / "vi").mkdir()
    with pytest.raises(DataError, match=r"has no \.txt files in folders per language"):
        read_texts(str(tmp_path), TextFormat())


def test_hub_data_set_with_class_labels(monkeypatch):
    features = Features({"text": Value("string"), "labels": ClassLabel(names=["en", "vi"])})
    made = Dataset.from_dict({"text": ["hello", "xin chào"], "labels": [0, 1]}, features=features)
    monkeypatch.setattr("hf_fer.data.hub.load_dataset", lambda name: DatasetDict(train=made, validation=made))
    rows, _ = read_texts("someone/texts", TextFormat())
    assert rows["label"].tolist() == ["en", "vi"] * 2
    assert rows["split"].tolist() == ["train"] * 2 + ["validation"] * 2


def test_unreachable_hub_data_set():
    with pytest.raises(DataError, match="neither 'demo', nor an existing folder"):
        read_texts("someone/nothing", TextFormat())


@pytest.mark.parametrize(
    ("given", "code"),
    [("vie", "vi"), ("VI", "vi"), ("ger", "de"), ("deu", "de"), ("haw", "haw"), ("eng_Latn", "en-Latn"), ("nob", "nb"),
     ("Vietnamese", "vi"), (" ja ", "ja"), ("zh-CN", "zh-CN"), ("zh_cn", "zh-CN"), ("ZH-cn", "zh-CN"),
     ("zh-hant-tw", "zh-Hant-TW"), ("es_419", "es-419"), ("Greek", "el"), ("Farsi", "fa"), ("persian", "fa"),
     ("Slovene", "sl"), ("Mandarin", "cmn"), ("Traditional Chinese", "zh-Hant")],
)  # fmt: skip
def test_codes(given, code):
    assert canonical_code(given) == code


def test_unknown_code_names_row_and_remedy():
    rows = pd.DataFrame({"label": ["en", "zz"], "text": ["a", "b"], "path": ["f row 1", "f row 2"]})
    with pytest.raises(DataError, match=r"f row 2: label 'zz' is neither.*--label_codes as_is"):
        canonical_labels(rows)
    with pytest.raises(DataError, match="withdrawn from ISO 639: use 'he'"):
        canonical_code("iw")


def test_normalize():
    assert normalize(" ｶﾅ\t\x00 ﬁn \r\n") == "カナ fin"


def test_clean_counts_what_it_leaves_out():
    texts = ["", " \n", "😀 123", "a", "xin chào", "xin  chào", "xin chào", "日本"]
    labels = ["vi"] * 6 + ["en", "ja"]
    rows = pd.DataFrame({"text": texts, "label": labels, "path": [f"row {i}" for i in range(8)]})
    kept, counts = clean(rows, min_letters=2)
    assert counts == {"empty": 2, "too_short": 2, "duplicate": 1, "ambiguous": 2}
    assert list(zip(kept["label"], kept["text"], strict=True)) == [
        ("vi", "xin chào"),
        ("en", "xin chào"),
        ("ja", "日本"),
    ]
