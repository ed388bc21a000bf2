"""One spelling per name: blanks and Unicode forms in manifests, texts and csr's tables; look-alikes are told of."""

import json
import unicodedata

import pandas as pd
import pytest

from hf_fer.data import manifest
from hf_fer.data.loading import DataError, check_groups
from hf_fer.data.names import clean_name, clean_names, look_alikes
from hf_fer.models.csr.train.concepts import ConceptFormat, concept_values, read_wide, rule_notes
from hf_fer.models.language_id.train.text import TextFormat, read_texts

ZOE = unicodedata.normalize("NFD", "Zoë")


def test_blanks_and_unicode_forms_are_one_name():
    for spelling in ("Zoë", " Zoë", "Zoë\u00a0", f"\ufeff{ZOE} ", f"{ZOE}\u200b"):
        assert clean_name(spelling) == "Zoë"
    assert clean_names(pd.Series(["a ", None, " ", "b"])).tolist() == ["a", None, None, "b"]


def test_look_alikes_are_paired_and_numbers_are_not():
    assert look_alikes(["anna", "Anna", "bob"]) == [("Anna", "anna")]
    assert look_alikes(["s 01", "s1", "S1"]) == [("S1", "s 01"), ("S1", "s1")]
    assert look_alikes(["surprised", "suprised"]) == [("suprised", "surprised")]
    assert look_alikes(["José", "Jose"]) == [("Jose", "José")]
    assert not look_alikes([*(f"speaker{n}" for n in range(30)), "1_2", "12", "01", "02", "male", "female"])


@pytest.mark.parametrize("other", ["anna ", "\tanna", "anna\u00a0"])
def test_a_speaker_with_blanks_is_on_one_side_of_a_manifest(tmp_path, other):
    table = tmp_path / "m.jsonl"
    rows = [("anna", "train"), ("bob", "validation"), (other, "test")]
    table.write_text(
        "".join(
            json.dumps({"audio": f"{n}.wav", "label": "sad ", "group": name, "split": f" {split}"}) + "\n"
            for n, (name, split) in enumerate(rows)
        )
    )
    found = manifest.read_manifest(table)
    assert set(found["label"]) == {"sad"}
    with pytest.raises(DataError, match="anna"):
        manifest.assign_protocol(found, "manifest", seed=0)


def test_a_blank_label_or_group_is_a_missing_one():
    rows = pd.DataFrame({"audio": ["a.wav", "b.wav"], "label": ["x", " "], "group": ["a", "b"]})
    assert manifest.lacking(manifest.validate(rows, "m.csv")).tolist() == [None, "has no label"]
    with pytest.raises(DataError, match="row 2 has no group"):
        manifest.validate(rows.assign(label="x", group=["a", " "]), "m.csv")


def test_sources_and_labels_of_texts(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(f"text,label,source,split\none,vi,Zoë,train\ntwo,vi ,{ZOE} ,test \n", encoding="utf-8")
    rows, _ = read_texts(str(table), TextFormat())
    assert set(rows["label"]) == {"vi"}
    with pytest.raises(DataError, match="Zoë"):
        check_groups(rows, group="source")


def test_rule_values_classes_and_patients_of_csr(caplog):
    table = pd.DataFrame({"image": list("abc"), "nodule": ["yes ", "no", "Yes"], "class": ["x", "x ", "y"]})
    table["patient"] = ["p1", "p1 ", "p2"]
    assert concept_values(table, "nodule= yes", "t.csv", True).tolist() == [1, 0, 0]
    assert "'Yes' and 'yes'" in rule_notes(table, ["nodule= yes"])[0]
    assert "'Yes' and 'yes'" in caplog.text
    data = read_wide(table, "t.csv", ConceptFormat(concepts={"nodule": "nodule=yes"}, class_columns=["class"]))
    assert data.classes == ["x", "y"]
    assert data.rows["group"].tolist() == ["p1", "p1", "p2"]
