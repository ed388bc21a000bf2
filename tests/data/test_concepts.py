"""Tables of images with concepts: one row per image, and VinDr-CXR's one row per finding and reader."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_fer.data.concepts import ConceptFormat, read_concepts, relative_boxes
from hf_fer.data.loading import DataError

SUFFIXES = (".dcm", ".dicom", ".png")

WIDE = """file,patient,split,diagnosis,colour,size,blue
a.png,p1,train,nevus,T,0,0.5
b.png,p2,val,melanoma,AT,2,1
c.png,p2,val,nevus,A,1,0
"""

FORM = {"concepts": {"atypical": "colour=AT", "big": "size=1|2", "blue": "blue"}, "class_columns": ["diagnosis"]}


def table(folder: Path, text: str, name: str = "t.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


class TestWide:
    def test_columns_and_rules(self, tmp_path):
        data = read_concepts(table(tmp_path, WIDE), ConceptFormat(**FORM), SUFFIXES)
        assert data.concepts == ["atypical", "big", "blue"]
        assert data.rows["concept_labels"].tolist() == [[0, 0, 0.5], [1, 1, 1], [0, 1, 0]]
        assert data.classes == ["melanoma", "nevus"]
        assert data.rows["targets"].tolist() == [1, 0, 1]
        assert data.rows["split"].tolist() == ["train", "validation", "validation"]
        assert data.rows["group"].tolist() == ["p1", "p2", "p2"]
        assert data.rows["path"][0] == str(tmp_path / "a.png")
        assert not data.multi_label

    def test_several_class_columns_are_multi_label(self, tmp_path):
        path = table(tmp_path, "image,c,x,y\na,1,1,1\nb,0,0,0\n")
        data = read_concepts(path, ConceptFormat(concepts={"c": "c"}, class_columns=["x", "y"]), SUFFIXES)
        assert data.multi_label
        assert data.rows["targets"].tolist() == [[1, 1], [0, 0]]
        assert data.rows["label"].tolist() == ["x+y", "none"]

    def test_endings_are_found(self, tmp_path):
        (tmp_path / "a.dicom").touch()
        path = table(tmp_path, "image_id,c,k\na,1,x\n")
        data = read_concepts(path, ConceptFormat(concepts={"c": "c"}, class_columns=["k"]), SUFFIXES)
        assert data.rows["path"].tolist() == [str(tmp_path / "a.dicom")]

    def test_boxes(self, tmp_path):
        boxes = table(
            tmp_path, "file,concept,x_min,y_min,x_max,y_max\nb.png,blue,1,2,3,4\nb.png,big,5,6,7,8\n", "boxes.csv"
        )
        data = read_concepts(table(tmp_path, WIDE), ConceptFormat(**FORM, boxes=boxes), SUFFIXES)
        assert data.rows["boxes"].tolist() == [[], [[2, 1, 2, 3, 4], [1, 5, 6, 7, 8]], []]

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("b.png,bleu,1,2,3,4", r"row 1 has the unknown concept 'bleu'; did you mean 'blue'"),
            ("z,blue,1,2,3,4", "'z'"),
        ],
    )
    def test_boxes_of_nothing_known(self, tmp_path, row, message):
        boxes = table(tmp_path, f"file,concept,x_min,y_min,x_max,y_max\n{row}\n", "boxes.csv")
        with pytest.raises(DataError, match=message):
            read_concepts(table(tmp_path, WIDE), ConceptFormat(**FORM, boxes=boxes), SUFFIXES)

    @pytest.mark.parametrize(
        ("concepts", "message"),
        [
            ({"blue": "bleu"}, "no column 'bleu'; did you mean 'blue'"),
            (
                {"atypical": "colour"},
                r"row 1 has 'T' for concept column 'colour'; give a number from 0 to 1, or a rule",
            ),
            ({"atypical": "colour=X"}, r"column 'colour' has none of \['X'\]; it has \['A', 'AT', 'T'\]"),
            ({}, "which columns hold concepts"),
        ],
    )
    def test_concepts_that_are_not_there(self, tmp_path, concepts, message):
        form = ConceptFormat(concepts=concepts, class_columns=["diagnosis"])
        with pytest.raises(DataError, match=message):
            read_concepts(table(tmp_path, WIDE), form, SUFFIXES)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (WIDE.replace("nevus,T", ",T"), "row 1 has no 'diagnosis'"),
            (WIDE.replace("b.png", "a.png"), "'a.png' has more than one row"),
            (WIDE.replace("val", "later"), "row 2 has split 'later'"),
            (WIDE.replace("0.5", "7"), "row 1 has '7' for concept column 'blue'"),
            (WIDE.replace("file", "picture"), "no image column"),
        ],
    )
    def test_bad_tables(self, tmp_path, text, message):
        with pytest.raises(DataError, match=message):
            read_concepts(table(tmp_path, text), ConceptFormat(**FORM), SUFFIXES)


FINDINGS = """image_id,rad_id,class_name,x_min,y_min,x_max,y_max
i1,R1,Nodule/Mass,10,10,20,20
i1,R1,Nodule/Mass,30,30,40,40
i1,R2,Nodule/Mass,11,11,21,21
i1,R3,Cardiomegaly,50,50,90,90
i2,R1,No finding,,,,
i2,R2,No finding,,,,
i2,R3,Cardiomegaly,5,5,9,9
"""

LABELS = """image_id,rad_id,Cardiomegaly,Nodule/Mass,Tuberculosis,Pneumonia
i1,R1,0,1,1,0
i1,R2,0,1,1,1
i1,R3,1,0,0,0
i2,R1,0,0,0,0
i2,R2,0,0,0,0
i2,R3,1,0,0,1
"""


class TestVinDr:
    @pytest.mark.parametrize(
        ("agreement", "expected"),
        [
            ("majority", [[0, 1], [0, 0]]),
            ("any", [[1, 1], [1, 0]]),
            ("soft", [[1 / 3, 2 / 3], [1 / 3, 0]]),
        ],
    )
    def test_readers(self, tmp_path, agreement, expected):
        form = ConceptFormat(reader_agreement=agreement)
        data = read_concepts(table(tmp_path, FINDINGS), form, SUFFIXES)
        assert data.concepts == ["Cardiomegaly", "Nodule/Mass"]
        np.testing.assert_allclose(data.rows["concept_labels"].tolist(), expected)

    def test_boxes_of_what_is_labelled(self, tmp_path):
        data = read_concepts(table(tmp_path, FINDINGS), ConceptFormat(), SUFFIXES)
        assert data.rows["boxes"][0] == [[1, 10, 10, 20, 20], [1, 30, 30, 40, 40], [1, 11, 11, 21, 21]]
        assert data.rows["boxes"][1] == []

    def test_classes_without_the_second_table(self, tmp_path):
        data = read_concepts(table(tmp_path, FINDINGS), ConceptFormat(), SUFFIXES)
        assert data.rows["label"].tolist() == ["Finding", "No finding"]
        assert not data.multi_label

    def test_classes_of_the_second_table(self, tmp_path):
        labels = table(tmp_path, LABELS, "image_labels.csv")
        data = read_concepts(table(tmp_path, FINDINGS), ConceptFormat(image_labels=labels), SUFFIXES)
        assert data.classes == ["Tuberculosis", "Pneumonia"]
        assert data.multi_label
        assert data.rows["targets"].tolist() == [[1, 0], [0, 0]]
        soft = ConceptFormat(image_labels=labels, reader_agreement="soft")
        data = read_concepts(table(tmp_path, FINDINGS), soft, SUFFIXES)
        np.testing.assert_allclose(data.rows["targets"].tolist(), [[2 / 3, 1 / 3], [0, 1 / 3]])

    def test_chosen_findings(self, tmp_path):
        form = ConceptFormat(concepts={"Nodule/Mass": ""})
        data = read_concepts(table(tmp_path, FINDINGS), form, SUFFIXES)
        assert data.concepts == ["Nodule/Mass"]
        with pytest.raises(DataError, match="no finding 'Nodule'; did you mean 'Nodule/Mass'"):
            read_concepts(table(tmp_path, FINDINGS), ConceptFormat(concepts={"Nodule": ""}), SUFFIXES)

    def test_a_finding_without_a_box(self, tmp_path):
        text = FINDINGS.replace("50,50,90,90", "50,50,,")
        with pytest.raises(DataError, match="row 4 is a 'Cardiomegaly' without a whole box"):
            read_concepts(table(tmp_path, text), ConceptFormat(), SUFFIXES)

    def test_labels_of_other_images(self, tmp_path):
        labels = table(tmp_path, LABELS.replace("i2", "i9"), "image_labels.csv")
        with pytest.raises(DataError, match="no row for image 'i2'"):
            read_concepts(table(tmp_path, FINDINGS), ConceptFormat(image_labels=labels), SUFFIXES)


def test_relative_boxes():
    assert relative_boxes([[1, 10, 5, 20, 25]], 40, 50, ["a", "b"]) == [[1, 0.25, 0.1, 0.5, 0.5]]


@pytest.mark.parametrize(
    "box", [(-1, 0, 5, 5), (0, 0, 41, 5), (0, 0, 5, 51), (5, 5, 5, 9), (9, 0, 5, 5), (0, 0, np.nan, 1)]
)
def test_boxes_outside_the_image(box):
    with pytest.raises(ValueError, match="of 'b' has no area or lies outside the image of 40 x 50 pixels"):
        relative_boxes([[1, *box]], 40, 50, ["a", "b"])


def test_ph2_gives_thirteen_concepts(real_data):
    """The recipe's rules on the real manifest: counts as they stand in it."""
    import json

    recipe = json.loads((Path(__file__).parents[2] / "training_args" / "csr_1_concepts.json").read_text())
    form = ConceptFormat(concepts=recipe["concepts"], class_columns=recipe["class_columns"])
    data = read_concepts(real_data / "ph2" / "manifest.csv", form, (".jpg",))
    assert len(data.concepts) == 13
    assert data.classes == ["atypical_nevus", "common_nevus", "melanoma"]
    train = data.rows[data.rows["split"] == "train"]
    counts = dict(zip(data.concepts, np.sum(train["concept_labels"].tolist(), axis=0), strict=True))
    manifest = pd.read_csv(real_data / "ph2" / "manifest.csv")
    manifest = manifest[manifest["split"] == "train"]
    assert counts["asymmetric"] == (manifest["asymmetry"] > 0).sum() == 49
    assert counts["streaks"] == (manifest["streaks"] == "P").sum() == 17
    assert counts["red"] == 5
