"""The drawn images: their concepts, places and classes are what their tables say."""

import cv2
import numpy as np
import pandas as pd
import pytest

from hf_fer.models.csr.train.demo_images import CLASSES, CONCEPTS, SIZE, class_of, draw_image, make_demo_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_demo_images(tmp_path_factory.mktemp("demo") / "set")


def test_tables_agree(folder):
    rows, boxes = pd.read_csv(folder / "concepts.csv"), pd.read_csv(folder / "boxes.csv")
    assert len(rows) == 480
    assert rows["patient"].nunique() == 48
    for _, row in rows.iterrows():
        present = [name for name in CONCEPTS if row[name]]
        assert set(boxes["concept"][boxes["image"] == row["image"]]) == set(present)
        assert class_of(present) == row["class"]
    assert rows["class"].value_counts().min() > 480 / len(CLASSES) * 0.8
    assert boxes[["x_min", "y_min"]].min().min() >= 0
    assert boxes[["x_max", "y_max"]].max().max() <= SIZE


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_shape_is_in_its_box(name):
    """The same ground with and without the shape differs inside the box only."""
    with_shape, boxes = draw_image([name], np.random.default_rng(3), np.full(3, 128.0))
    x0, y0, x1, y1 = (int(value) for value in boxes[name])
    flat = cv2.medianBlur(with_shape, 31)
    changed = np.abs(with_shape.astype(int) - flat).max(axis=-1) > 45
    assert changed[y0 : y1 + 1, x0 : x1 + 1].mean() > 0.1
    changed[max(y0 - 3, 0) : y1 + 4, max(x0 - 3, 0) : x1 + 4] = False
    assert changed.mean() < 0.01


def test_the_same_every_time(folder, tmp_path):
    again = make_demo_images(tmp_path / "again")
    for name in ("concepts.csv", "boxes.csv", "images/007_03.png"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_it_is_made_once_and_overwrites_nothing(folder, tmp_path):
    before = (folder / "concepts.csv").stat().st_mtime_ns
    assert make_demo_images(folder) == folder
    assert (folder / "concepts.csv").stat().st_mtime_ns == before
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="choose another folder"):
        make_demo_images(tmp_path / "mine")
