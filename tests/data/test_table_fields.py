"""`delimiter` and `encoding` are fields of every system, reach the reader, and are checked before anything is read."""

import pytest
from PIL import Image

from hf_fer.data.check import main as check
from hf_fer.data.loading import DataError
from hf_fer.models.csr.train.concepts import ConceptFormat, read_concepts
from hf_fer.models.language_id.train.source import read_rows
from hf_fer.models.multimodal_fer.train.source import read_source
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.base import task_names
from hf_fer.task.find import parse_task


def arguments(task: str, **fields) -> list[str]:
    return [word for name, value in {"task": task, **fields}.items() for word in (f"--{name}", str(value))]


@pytest.mark.parametrize("task", task_names())
@pytest.mark.parametrize(("field", "value"), [("encoding", "utf8000"), ("delimiter", ";;"), ("delimiter", '"')])
def test_what_cannot_be_is_refused_at_once(task, field, value):
    with pytest.raises(RecipeError, match=field):
        parse_task(arguments(task, dataset="demo", **{field: value}))


def test_a_manifest_in_another_encoding_and_with_another_delimiter(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes("audio^label^group\na.wav^sad^a\nb.wav^fun^b\n".encode("utf-16-le"))
    task = parse_task(
        arguments("multimodal_fer", dataset=path, modalities="audio", protocol="random_leaky", delimiter="^")
    )
    with pytest.raises(DataError, match="Pass --encoding utf-16-le"):
        read_source(task)
    task.data_args.encoding = "utf-16-le"
    with pytest.raises(DataError, match="too few to split"):  # so the table was read
        read_source(task)


def test_texts_with_another_delimiter(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text~lang\nxin chào~vi\nhello, my friend~en\n", encoding="utf-8")
    rows, _, _ = read_rows(parse_task(arguments("language_id", dataset=path, delimiter="~")).data_args)
    assert rows["text"].tolist() == ["xin chào", "hello, my friend"]


def test_every_table_of_images_is_written_the_same_way(tmp_path):
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_bytes("image^kind^größe\na.png^x^1\n".encode("cp1252"))
    (tmp_path / "test.csv").write_bytes("image^kind^größe\nb.png^x^0\n".encode("cp1252"))
    (tmp_path / "boxes.csv").write_bytes(
        "image^concept^x_min^y_min^x_max^y_max\na.png^größe^1^1^3^3\n".encode("cp1252")
    )
    form = ConceptFormat(
        concepts={"größe": "größe"},
        class_columns=["kind"],
        boxes=str(tmp_path / "boxes.csv"),
        test_dataset=str(tmp_path / "test.csv"),
        encoding="cp1252",
        delimiter="^",
    )
    data = read_concepts(tmp_path / "t.csv", form, (".png",))
    assert data.rows["concept_labels"].tolist() == [[1.0], [0.0]]
    assert data.rows["boxes"].tolist() == [[[0, 1.0, 1.0, 3.0, 3.0]], []]


def test_check_takes_them_too(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_bytes("text^lang\nxin chào^vi\nhello^en\n".encode("utf-16-le"))
    assert check([str(path), "--task", "language_id", "--encoding", "utf-16-le", "--delimiter", "^"]) == 0
    assert "by label: en 1, vi 1" in capsys.readouterr().out
    assert check([str(path), "--task", "language_id", "--encoding", "utf8000"]) == 2
    assert "utf8000" in capsys.readouterr().err


def test_a_tab_can_be_given_on_a_command_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("text\tlang;x\nxin chào\tvi\n", encoding="utf-8")
    assert parse_task(arguments("language_id", dataset=path, delimiter=r"\t")).data_args.form.table.delimiter == "\t"
