"""The one reader of tables: every way they are written, nothing guessed, and errors that name the row."""

import bz2
import codecs
import gzip
import io
import lzma
import unicodedata
import zipfile

import pandas as pd
import pyarrow
import pytest

from hf_fer.data.loading import DataError
from hf_fer.data.tables import PathFinder, TableFormat, find_column, is_table, need_column, read_table

ROWS = [("00000", "NA", "1.0"), ("007", "None", None), ("1e5", "nan", "true")]
CSV = "id,word,n\n00000,NA,1.0\n007,None,\n1e5,nan,true\n"


def write(folder, name, data):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def as_rows(table):
    return [tuple(None if pd.isna(value) else value for value in row) for row in table.itertuples(index=False)]


def zipped(*texts: str, names: tuple[str, ...] = ("t.csv", "u.csv")) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, text in zip(names, texts, strict=False):
            file.writestr(name, text)
    return archive.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("t.csv", CSV),
        ("T.CSV", CSV.replace("\n", "\r\n")),
        ("t.csv", CSV.replace(",", ";")),
        ("t.csv", CSV.replace(",", "\t")),
        ("t.csv", "sep=|\n" + CSV.replace(",", "|")),
        ("t.csv", ("sep=;\n" + CSV.replace(",", ";")).replace("\n", "\r")),
        ("t.csv", "\ufeff\ufeff" + CSV),
        ("t.tsv", CSV.replace(",", "\t")),
        ("t.csv", codecs.BOM_UTF8 + CSV.encode()),
        ("t.csv", CSV.encode("utf-16")),
        ("t.csv", codecs.BOM_UTF16_BE + CSV.encode("utf-16-be")),
        ("t.csv.gz", gzip.compress(CSV.encode())),
        ("t.CSV.GZ", gzip.compress(CSV.encode())),
        ("t.csv.bz2", bz2.compress(CSV.encode())),
        ("t.csv.xz", lzma.compress(CSV.encode())),
        ("t.csv.zip", zipped(CSV)),
        ("t.csv.zip", zipped("\0\0", CSV, names=("__MACOSX/._t.csv", "folder/t.csv"))),
        ("t.csv.zip", zipped("", CSV, names=("folder/", "folder/t.csv"))),
        ("t.csv.zst", pyarrow.compress(CSV.encode(), codec="zstd", asbytes=True)),
        ("t.CSV.ZST", pyarrow.compress(CSV.encode(), codec="zstd", asbytes=True)),
        ("t.v1.2.csv", CSV),
        ("t.csv", CSV.replace("\n", ",\n").replace("n,\n", "n\n", 1)),
        ("t.csv", CSV.replace("\n", ",\n")),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",  # compressed bytes hold the time
)
def test_no_type_is_guessed(tmp_path, name, data):
    table = read_table(write(tmp_path, name, data))
    assert list(table) == ["id", "word", "n"]
    assert as_rows(table) == ROWS


@pytest.mark.parametrize("ending", [".jsonl", ".JSONL", ".jsonl.gz", ".parquet"])
def test_numbers_become_text(tmp_path, ending):
    path = tmp_path / f"t{ending}"
    if ending == ".parquet":
        pd.DataFrame({"n": pd.array([1, None], dtype="Int64"), "s": ["01", None]}).to_parquet(path)
    else:
        data = b'{"n": 1, "s": "01"}\n\n{"n": null}\n'
        path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    assert as_rows(read_table(path)) == [("1", "01"), (None, None)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "text,label\nok,en\nhello, you,en\n",
            r"row 2 \(line 3\) has 3 fields, and the header has 2: 'hello",
        ),
        ("text,label\nhello, you,en\nbonjour, toi,fr\n", r"row 1 \(line 2\) has 3 fields"),
        ("text,label\nok,en\nalone\n", r"row 2 \(line 3\) has 1 fields"),
        ('text,label\n"so" he said,en\n', r"row 1, up to line 2, does not parse.*double its own"),
        ('text,label\n"never closed,en\n', "does not parse"),
        ("text,text\na,b\n", "two columns are named 'text'"),
        ("", "is empty"),
        ("text,label\na,b\n".encode("utf-16-le"), "Pass --encoding utf-16-le"),
        (b"text,label\nd\xe9j\xe0,fr\n", "is not utf-8 at line 2. Pass --encoding"),
        ("text,label\nxin chào ạ,vi\n".encode("utf-16-be"), "Pass --encoding utf-16-le"),
        ("text,label\n", r"t\.csv: has no rows"),
        (zipped(CSV), "is no text but a ZIP archive or an Excel file"),
        (gzip.compress(CSV.encode(), mtime=0), "is no text but a gzip archive"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, data, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, "t.csv", data))


def test_encoding_and_delimiter_as_told(tmp_path):
    path = write(tmp_path, "t.csv", "a#b\nd\xe9j\xe0#x\n".encode("cp1252"))
    assert as_rows(read_table(path, TableFormat("cp1252", "#"))) == [("déjà", "x")]
    for name in ("nonsense", "undefined"):
        with pytest.raises(DataError, match=f"'{name}' is unknown to Python"):
            read_table(path, TableFormat(name))


def test_a_quoted_field_may_hold_anything(tmp_path):
    path = write(tmp_path, "t.csv", 'a,b\n"x, ""y""\nz",1\n')
    assert as_rows(read_table(path)) == [('x, "y"\nz', "1")]
    long = "x" * 200_000
    assert as_rows(read_table(write(tmp_path, "long.csv", f"a,b\n{long},1\n"))) == [(long, "1")]


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"cannot read \.xlsx"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match="file not found"):
        read_table(tmp_path / "t.csv")
    packed = [(f"a.csv.{name}", b"not packed") for name in ("gz", "bz2", "xz", "zip", "zst")]
    packed.append(("b.csv.gz", gzip.compress(CSV.encode())[:12] + b"\xff" * 20))
    for name, data in (*packed, ("a.parquet", b"PAR0"), ("a.jsonl", "{")):
        with pytest.raises(DataError, match=name):
            read_table(write(tmp_path, name, data))
    assert is_table("a.CSV.gz")
    assert not is_table("a.gz")


def test_an_archive_holds_one_table(tmp_path):
    for data, message in ((zipped(CSV, CSV), r"has 2 files \(t\.csv, u\.csv\)"), (zipped(), "has 0 files")):
        with pytest.raises(DataError, match=message):
            read_table(write(tmp_path, "t.csv.zip", data))
    locked = bytearray(zipped(CSV))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.find(mark) + place] |= 1  # says that the member is encrypted
    with pytest.raises(DataError, match=r"password.*Unpack it"):
        read_table(write(tmp_path, "t.csv.zip", bytes(locked)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": "x", "b": "1", "a": "y"}', "line 2 is not JSON .'a' occurs twice"),
        ('{"a": "x", "a ": "y"}', "two columns are named 'a'"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "line 2 is not JSON .maximum recursion"),
        ('[{"a": "x"}]', "line 2 is not a JSON object"),
        ("[", "line 2 is not JSON .*Write one object on each line, not one array"),
    ],
    ids=range(5),
)
def test_lines_that_are_no_rows(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, "t.jsonl", f'{{"a": "z"}}\n{line}\n'))


def test_half_a_character_is_replaced_and_said(tmp_path, caplog):
    found = read_table(write(tmp_path, "t.jsonl", '{"a": "z \\ud83d\\ude00"}\n{"a": "z \\ud83d"}\n'))
    assert found["a"].tolist() == ["z \U0001f600", "z \ufffd"]
    assert "1 values of 'a' have half of a character, first in row 2" in caplog.text


def test_columns_are_one_name_in_any_unicode_form(tmp_path):
    name = unicodedata.normalize("NFD", "văn bản")
    table = read_table(write(tmp_path, "t.csv", f"\u200b{name},b\n1,2\n"))
    assert list(table) == ["văn bản", "b"]
    assert find_column(table, (name,)) == "văn bản"


def test_columns_are_found_in_any_case_or_hinted_at():
    table = pd.DataFrame(columns=["File Name", "Lable"])
    assert find_column(table, ("path", "file_name")) == "File Name"
    assert find_column(table, ("File Name",)) == find_column(table, ("FILE name",)) == "File Name"
    assert find_column(pd.DataFrame(columns=["Text", "text"]), ("text",)) == "text"
    with pytest.raises(DataError, match=r"has no label column.*\['File Name', 'Lable'\]; did you mean 'Lable'"):
        need_column(table, ("label", "emotion"), "label", "t.csv")


def test_files_are_found_by_the_names_that_other_machines_write(tmp_path):
    accented = tmp_path / "clips" / unicodedata.normalize("NFD", "é.WAV")
    accented.parent.mkdir()
    accented.touch()
    (tmp_path / "plain.mp4").touch()
    finder = PathFinder(tmp_path)
    for name in ("clips\\é.wav", "clips/é.WAV", " clips/é.wav ", unicodedata.normalize("NFD", ".\\clips\\é.Wav")):
        assert finder.find(name) == str(accented)
    assert finder.find("plain.mp4") == finder.find(str(tmp_path / "plain.mp4")) == str(tmp_path / "plain.mp4")
    assert finder.find("plain.MP4::clip") == f"{tmp_path / 'plain.mp4'}::clip"
    assert finder.find("Plain.mp4") == str(tmp_path / "Plain.mp4")
