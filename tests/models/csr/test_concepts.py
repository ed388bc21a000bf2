"""Tables of images with concepts: one row per image, and VinDr-CXR's one row per finding and reader."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_fer.data.loading import DataError
from hf_fer.data.manifest import assign_protocol
from hf_fer.models.csr.train.boxes import relative_boxes
from hf_fer.models.csr.train.concepts import ConceptFormat, read_concepts

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

    def test_a_patient_that_is_missing(self, tmp_path):
        form = ConceptFormat(**FORM)
        some = WIDE.replace("b.png,p2", "b.png,")
        with pytest.raises(DataError, match=r"t.csv: row 2 has no patient, though others have \(1 such rows\)"):
            read_concepts(table(tmp_path, some), form, SUFFIXES)
        none = some.replace("p1", "").replace("p2", "")
        assert "group" not in read_concepts(table(tmp_path, none), form, SUFFIXES).rows

    def test_a_split_column_in_any_case_or_empty(self, tmp_path):
        form = ConceptFormat(**FORM)
        found = read_concepts(table(tmp_path, WIDE.replace("split", "Split ")), form, SUFFIXES)
        assert found.rows["split"].tolist() == ["train", "validation", "validation"]
        empty = WIDE.replace(",train,", ",,").replace(",val,", ",,")
        assert "split" not in read_concepts(table(tmp_path, empty), form, SUFFIXES).rows
        with pytest.raises(DataError, match=r"t.csv: row 1 has no split, though others have"):
            read_concepts(table(tmp_path, WIDE.replace(",train,", ",,")), form, SUFFIXES)

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
            (WIDE.replace("nevus,A,1", "nevus,,1"), r"t.csv: row 3 has no 'colour' \(1 such rows"),
            (WIDE.replace("AT,2,1", "AT,,1"), r"t.csv: row 2 has no 'size'"),
        ],
    )
    def test_bad_tables(self, tmp_path, text, message):
        with pytest.raises(DataError, match=message):
            read_concepts(table(tmp_path, text), ConceptFormat(**FORM), SUFFIXES)

    def test_values_that_never_occur(self, tmp_path, caplog):
        form = ConceptFormat(concepts={"atypical": "colour=AT|ATT", "big": "size=1|2"}, class_columns=["diagnosis"])
        data = read_concepts(table(tmp_path, WIDE), form, SUFFIXES)
        assert data.rows["concept_labels"].tolist() == [[0, 0], [1, 1], [0, 1]]
        assert len(caplog.records) == 1
        assert "t.csv: column 'colour' never has ['ATT'] of 'colour=AT|ATT'; it has ['A', 'AT', 'T']" in caplog.text

    def test_values_that_look_alike_are_in_the_notes(self, tmp_path):
        data = read_concepts(table(tmp_path, WIDE.replace("nevus,A,", "nevus,at,")), ConceptFormat(**FORM), SUFFIXES)
        assert ["'AT' and 'at'" in note for note in data.notes] == [True]


WIDE_TEST = """file,patient,diagnosis,colour,size,blue
d.png,p3,nevus,T,1,1
e.png,p4,nevus,A,0,0
"""


class TestWideTestSet:
    """A test set in a table of its own: `test_dataset`."""

    def read(self, folder: Path, train: str = WIDE, test: str = WIDE_TEST, **fields):
        form = ConceptFormat(**FORM, test_dataset=table(folder, test, "test.csv"), **fields)
        return read_concepts(table(folder, train), form, SUFFIXES)

    def test_rows_of_both(self, tmp_path):
        """Concepts and classes are the training table's, also those that the test table has none of."""
        boxes = table(tmp_path, "file,concept,x_min,y_min,x_max,y_max\nd.png,blue,1,2,3,4\n", "boxes.csv")
        data = self.read(tmp_path, test_boxes=boxes, test_image_folder=str(tmp_path / "elsewhere"))
        assert data.rows["split"].tolist() == ["train", "validation", "validation", "test", "test"]
        assert data.rows["concept_labels"].tolist()[3:] == [[0, 1, 1], [0, 0, 0]]
        assert data.rows["targets"].tolist() == [1, 0, 1, 1, 1]
        assert data.classes == ["melanoma", "nevus"]
        assert data.rows["boxes"].tolist() == [[], [], [], [[2, 1, 2, 3, 4]], []]
        assert data.rows["path"].tolist()[2:4] == [str(tmp_path / "c.png"), str(tmp_path / "elsewhere/d.png")]
        assert data.rows["group"].tolist() == ["p1", "p2", "p2", "p3", "p4"]

    def test_the_training_table_is_cut_where_it_is_not(self, tmp_path):
        rows = [
            f"{n}.png,p{n // 2},{'nevus' if n % 3 else 'melanoma'},{'AT' if n % 2 else 'T'},1,0" for n in range(40)
        ]
        head = "file,patient,diagnosis,colour,size,blue"
        data = self.read(tmp_path, "\n".join([head, *rows]), f"{head}\nx.png,q,nevus,T,0,1\n")
        assert data.rows["split"].isna().tolist() == [True] * 40 + [False]
        rows = assign_protocol(data.rows, "manifest", seed=0)[0]
        assert rows["split"][40] == "test"
        assert set(rows["split"][:40]) == {"train", "validation"}
        assert rows.groupby("group")["split"].nunique().max() == 1

    def test_a_patient_in_both(self, tmp_path):
        data = self.read(tmp_path, test=WIDE_TEST.replace("p3", "p1"))
        with pytest.raises(DataError, match=r"in more than one split: p1 \(test and train\)"):
            assign_protocol(data.rows, "manifest", seed=0)

    def test_equal_names_in_two_folders(self, tmp_path):
        data = self.read(tmp_path, test=WIDE_TEST.replace("d.png", "a.png"), test_image_folder=str(tmp_path / "b"))
        assert data.rows["path"].tolist().count(str(tmp_path / "a.png")) == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (("d.png", "a.png"), r"test.csv: image 'a.png' is in .*t.csv, too \(1 such images\)"),
            (("p3,nevus", "p3,naevus"), "test.csv: row 1 is of the class 'naevus', which the training table does not"),
            (("patient", "other"), "test.csv: has no column of .* a patient may be in both"),
            (("colour", "color"), "test.csv: no column 'colour'; did you mean 'color'"),
            (("T,1,1", ",1,1"), "test.csv: row 1 has no 'colour'"),
        ],
    )
    def test_what_does_not_go_together(self, tmp_path, change, message):
        with pytest.raises(DataError, match=message):
            self.read(tmp_path, test=WIDE_TEST.replace(*change))

    def test_splits_that_contradict(self, tmp_path):
        with pytest.raises(DataError, match=r"t.csv: image 'b.png' has split 'test', but the test set is all of"):
            self.read(tmp_path, WIDE.replace("val", "test"))
        given = WIDE_TEST.replace("patient", "patient,split").replace("p3", "p3,test").replace("p4", "p4,train")
        with pytest.raises(DataError, match=r"test.csv: image 'e.png' has split 'train'"):
            self.read(tmp_path, test=given)


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

    @pytest.mark.parametrize(
        ("agreement", "expected"),
        [("majority", "No finding"), ("soft", "No finding"), ("any", "Finding")],
    )
    def test_finding_follows_the_readers_agreement(self, tmp_path, agreement, expected):
        """One of three readers saw something in i2."""
        data = read_concepts(table(tmp_path, FINDINGS), ConceptFormat(reader_agreement=agreement), SUFFIXES)
        assert data.rows["label"].tolist() == ["Finding", expected]

    def test_half_of_the_readers_are_a_majority_for_the_class_too(self, tmp_path):
        text = FINDINGS.replace("i2,R1,No finding,,,,\n", "")
        data = read_concepts(table(tmp_path, text), ConceptFormat(), SUFFIXES)
        assert data.rows["concept_labels"][1] == [1, 0]
        assert data.rows["label"][1] == "Finding"

    def test_a_finding_that_nobody_marked_is_no_class(self, tmp_path):
        labels = pd.read_csv(io.StringIO(LABELS)).assign(Edema=0).rename(columns={"Pneumonia": "Other diseases"})
        labels.to_csv(tmp_path / "image_labels.csv", index=False)
        form = ConceptFormat(image_labels=str(tmp_path / "image_labels.csv"))
        data = read_concepts(table(tmp_path, FINDINGS), form, SUFFIXES)
        assert data.classes == ["Tuberculosis", "Other diseases"]

    def test_labels_that_are_not_vindrs(self, tmp_path):
        labels = table(tmp_path, LABELS.replace("Tuberculosis", "Red").replace("Pneumonia", "No finding"), "l.csv")
        data = read_concepts(table(tmp_path, FINDINGS), ConceptFormat(image_labels=labels), SUFFIXES)
        assert data.classes == ["Red", "No finding"]

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

    @pytest.mark.parametrize(("column", "values"), [("patient", "pqp"), ("Split", ("train", "test", "train"))])
    def test_an_image_of_two_patients_or_splits(self, tmp_path, column, values):
        head = f"image_id,class_name,x_min,y_min,x_max,y_max,{column}\n"
        text = head + "".join(f"{i},Nodule,1,1,5,5,{v}\n" for i, v in zip("iij", values, strict=True))
        with pytest.raises(DataError, match=rf"row 2 has the {column} '{values[1]}' for image 'i', and an earlier"):
            read_concepts(table(tmp_path, text), ConceptFormat(), SUFFIXES)
        whole = table(tmp_path, text.replace(f"i,Nodule,1,1,5,5,{values[1]}", f"i,Nodule,1,1,5,5,{values[0]}"))
        rows = read_concepts(whole, ConceptFormat(), SUFFIXES).rows
        assert rows["group" if column == "patient" else "split"].tolist() == [values[0], values[2]]

    def test_labels_of_images_without_names_or_classes(self, tmp_path):
        path = table(tmp_path, "image_id,class_name,x_min,y_min,x_max,y_max\ni,Nodule,1,1,5,5\n")
        for text, message in (("image,TB\ni,1\n", "no column 'image_id'"), ("image_id\ni\n", "no column of a class")):
            form = ConceptFormat(image_labels=table(tmp_path, text, "l.csv"))
            with pytest.raises(DataError, match=message):
                read_concepts(path, form, SUFFIXES)

    def test_a_finding_without_a_box(self, tmp_path):
        text = FINDINGS.replace("50,50,90,90", "50,50,,")
        with pytest.raises(DataError, match="row 4 is a 'Cardiomegaly' without a whole box"):
            read_concepts(table(tmp_path, text), ConceptFormat(), SUFFIXES)

    def test_labels_of_other_images(self, tmp_path):
        labels = table(tmp_path, LABELS.replace("i2", "i9"), "image_labels.csv")
        with pytest.raises(DataError, match="no row for image 'i2'"):
            read_concepts(table(tmp_path, FINDINGS), ConceptFormat(image_labels=labels), SUFFIXES)


FINDINGS_TEST = """image_id,class_name,x_min,y_min,x_max,y_max
t1,Cardiomegaly,1,1,5,5
t2,No finding,,,,
"""

LABELS_TEST = """image_id,Cardiomegaly,Nodule/Mass,Pneumonia,Tuberculosis,Other disease,No finding
t1,1,0,0,1,1,0
t2,0,0,0,0,0,1
"""


class TestVinDrTestSet:
    """Its official test set: tables of its own, of a consensus without readers."""

    def read(self, folder: Path, findings: str = FINDINGS_TEST, labels: str | None = LABELS_TEST, **fields):
        own = LABELS.replace("Pneumonia", "Other diseases")
        form = ConceptFormat(
            image_labels=table(folder, own, "image_labels_train.csv"),
            test_dataset=table(folder, findings, "annotations_test.csv"),
            test_image_labels=labels and table(folder, labels, "image_labels_test.csv"),
            **fields,
        )
        return read_concepts(table(folder, FINDINGS), form, SUFFIXES)

    def test_rows_of_both(self, tmp_path):
        """A class that the training labels do not have must be left out by name; spellings of one are the same."""
        labels = LABELS_TEST.replace("Pneumonia,", "Edema,").replace(",No finding", ",Ignored")
        data = self.read(tmp_path, labels=labels, image_folder="train", test_image_folder="test")
        assert data.concepts == ["Cardiomegaly", "Nodule/Mass"]
        assert data.classes == ["Tuberculosis", "Other diseases"]
        assert data.rows["image"].tolist() == ["i1", "i2", "t1", "t2"]
        assert data.rows["concept_labels"].tolist() == [[0, 1], [0, 0], [1, 0], [0, 0]]
        assert data.rows["targets"].tolist() == [[1, 0], [0, 0], [1, 1], [0, 0]]
        assert data.rows["label"].tolist()[2:] == ["Tuberculosis+Other diseases", "none"]
        assert data.rows["boxes"].tolist()[2:] == [[[0, 1, 1, 5, 5]], []]
        assert data.rows["path"].tolist()[1:3] == [str(Path("train/i2")), str(Path("test/t1"))]
        assert data.rows["split"].tolist() == [None, None, "test", "test"]

    def test_without_labels_of_images(self, tmp_path):
        form = ConceptFormat(test_dataset=table(tmp_path, FINDINGS_TEST, "annotations_test.csv"))
        data = read_concepts(table(tmp_path, FINDINGS), form, SUFFIXES)
        assert data.rows["label"].tolist() == ["Finding", "No finding"] * 2

    def test_chosen_classes_and_findings(self, tmp_path):
        findings = FINDINGS_TEST + "t2,Edema,1,1,5,5\n"
        chosen = {"concepts": {"Nodule/Mass": ""}, "class_columns": ["Tuberculosis"]}
        data = self.read(tmp_path, findings, **chosen)
        assert data.concepts == ["Nodule/Mass"]
        assert data.rows["targets"].tolist() == [[1], [0], [1], [0]]
        assert data.rows["concept_labels"].tolist() == [[1], [0], [0], [0]]

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({}, "image_labels_test.csv: has the class 'Pneumonia', which the training table's labels do not"),
            ({"labels": None}, "annotations_test.csv: set both image_labels and test_image_labels"),
            (
                {"findings": FINDINGS_TEST.replace("Cardiomegaly", "Edema")},
                "has the finding 'Edema', which the training",
            ),
            (
                {"findings": FINDINGS_TEST.replace("class_name", "name")},
                "annotations_test.csv: no column 'class_name'",
            ),
            (
                {
                    "findings": FINDINGS_TEST.replace("t1", "i1"),
                    "class_columns": ["Tuberculosis"],
                    "labels": LABELS_TEST.replace("t1", "i1"),
                    "test_image_folder": "test",
                },
                "annotations_test.csv: image 'i1' is in .*t.csv, too",
            ),
        ],
    )
    def test_what_does_not_go_together(self, tmp_path, fields, message):
        with pytest.raises(DataError, match=message):
            self.read(tmp_path, **fields)


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

    recipe = json.loads((Path(__file__).parents[3] / "training_args" / "csr_1_concepts.json").read_text())
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
