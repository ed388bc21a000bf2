"""The recipes of VinDr-CXR, on tables of its form that are made here."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from hf_fer.models.csr.configuration_csr import CsrConfig
from hf_fer.task.find import parse_task

RECIPES = sorted((Path(__file__).parents[3] / "training_args").glob("csr_vindr_*.json"))
CONCEPTS = list(json.loads(RECIPES[0].read_text())["concepts"])
GLOBAL = ["COPD", "Lung tumor", "Pneumonia", "Tuberculosis"]
PER_FINDING = 3


def write_tables(folder: Path, split: str, other: str) -> list[str]:
    """Images with one finding each, by one reader, and the labels of whole images; the fields that name them."""
    (folder / split).mkdir()
    findings, labels = [], []
    for number in range(PER_FINDING * len(CONCEPTS)):
        name = f"{split}{number}"
        box = {"x_min": 2, "y_min": 2, "x_max": 9, "y_max": 9}
        findings.append({"image_id": name, "rad_id": "R1", "class_name": CONCEPTS[number % len(CONCEPTS)], **box})
        chosen = number % 6
        flags = {label: int(index == chosen) for index, label in enumerate([*GLOBAL, other, "No finding"])}
        labels.append({"image_id": name, "rad_id": "R1", **flags, CONCEPTS[0]: 0})
        cv2.imwrite(str(folder / split / f"{name}.png"), np.full((16, 16, 3), 3 * number, np.uint8))
    tables = {"annotations": findings, "image_labels": labels}
    for table, rows in tables.items():
        pd.DataFrame(rows).to_csv(folder / f"{table}_{split}.csv", index=False)
    test = "test_" if split == "test" else ""
    return [
        *(f"--{test}dataset", str(folder / f"annotations_{split}.csv")),
        *(f"--{test}image_labels", str(folder / f"image_labels_{split}.csv")),
        *(f"--{test}image_folder", str(folder / split)),
    ]


def test_the_first_recipe_reads_its_official_split(tmp_path):
    fields = [*write_tables(tmp_path, "train", "Other diseases"), *write_tables(tmp_path, "test", "Other disease")]
    task = parse_task([str(RECIPES[0]), *fields, "--output_dir", str(tmp_path / "out"), "--use_cpu", "true"])
    data = task.load_data()
    assert data.own.concepts == CONCEPTS
    assert len(CONCEPTS) == 14
    assert sorted(data.labels) == sorted([*GLOBAL, "Other diseases", "No finding"])
    assert data.own.multi_label
    assert len(data.splits["test"]) == PER_FINDING * len(CONCEPTS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_has_the_sizes_of_the_paper(path):
    recipe = json.loads(path.read_text())
    assert (recipe["num_train_epochs"], recipe["learning_rate"]) == (10, 1e-4)
    assert recipe.get("backbone", "medmae") == "medmae"
    assert (
        recipe["config_overrides"]["num_prototypes"] == 5 if recipe["stage"] == 1 else "config_overrides" not in recipe
    )


def test_medmae_is_a_vit_base():
    sizes = CsrConfig(backbone="medmae", concepts=["a"]).backbone_config.to_dict()
    assert (sizes["hidden_size"], sizes["num_hidden_layers"]) == (768, 12)
