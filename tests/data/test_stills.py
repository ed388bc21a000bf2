"""Pictures inside tables and archives: what is read, how often it is written, and which rows are refused."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from hf_fer.data.loading import DataError
from hf_fer.data.manifest import read_class_folder, read_manifest, with_soundtracks
from hf_fer.data.stills import FER2013_CLASSES
from hf_fer.models.multimodal_fer.decoding_multimodal_fer import load_video, media_tracks


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_fer.data.loading.HF_HOME", str(tmp_path / "home"))


def faces(count: int, side: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)


def table(path, images, rows=None, header=("emotion", "pixels", "Usage")):
    rows = rows or [(index % 7, "Training") for index in range(len(images))]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for (label, usage), image in zip(rows, images, strict=True):
            writer.writerow([label, image if isinstance(image, str) else " ".join(map(str, image.ravel())), usage])
    return path


def test_reads_fer2013_as_it_is_distributed(tmp_path):
    images = faces(7)
    usages = ["Training", "Training", "PublicTest", "PrivateTest", *["Training"] * 3]
    rows = read_manifest(table(tmp_path / "fer2013.csv", images, list(zip(range(7), usages, strict=True))))
    assert list(rows["label"]) == list(FER2013_CLASSES)
    assert list(rows["split"]) == ["train", "train", "validation", "test", "train", "train", "train"]
    for path, image in zip(rows["video"], images, strict=True):
        (frame,) = load_video(path, 1)
        assert (frame == image[..., None]).all()
    assert media_tracks(rows["video"][0]) == ("video",)


def test_a_table_of_pixels_with_other_columns_keeps_its_labels(tmp_path):
    path = table(tmp_path / "own.csv", faces(2), [("glad", "a"), ("sad", "b")], ("label", "pixels", "subject"))
    rows = read_manifest(path)
    assert list(rows["label"]) == ["glad", "sad"]
    assert list(rows["group"]) == ["a", "b"]
    assert "split" not in rows


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        ("1 2 3", "row 2: has 3 pixels"),
        ("1 2 3 x", "row 2: pixels must be whole numbers"),
        ("1 2 3 256", "row 2: has a pixel of 256"),
        ("", "row 2: has 0 pixels"),
    ],
)
def test_names_the_row_of_pixels_that_are_no_picture(tmp_path, pixels, message):
    path = table(tmp_path / "faces.csv", ["1 2 3 4", pixels], [(0, "Training")] * 2)
    with pytest.raises(DataError, match=message):
        read_manifest(path)


@pytest.mark.parametrize(("row", "message"), [((9, "Training"), "emotion '9'"), ((0, "Half"), "Usage 'Half'")])
def test_names_a_class_or_split_that_fer2013_lacks(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_manifest(table(tmp_path / "faces.csv", faces(2), [(0, "Training"), row]))


def archive(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("color", [False, True])
def test_reads_an_archive_of_pictures(tmp_path, color):
    images = np.repeat(faces(4)[..., None], 3, axis=-1) if color else faces(4)
    fields = {"labels": np.array([1, 0, 1, 0], np.uint8), "classes": np.array(["angry", "happy"])}
    path = archive(tmp_path / "faces.npz", images=images, split=np.array(["train"] * 3 + ["validation"]), **fields)
    rows = read_manifest(path)
    assert list(rows["label"]) == ["happy", "angry", "happy", "angry"]
    assert list(rows["split"]) == ["train"] * 3 + ["validation"]
    (frame,) = load_video(rows["video"][3], 1)
    assert (frame == (images[3] if color else images[3][..., None])).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "has no array images"),
        ({"images": faces(2).astype(float)}, "images must be uint8"),
        ({"labels": np.array([0])}, "labels must be"),
        ({"labels": np.array([0, 2])}, r"labels\[1\] is 2"),
        ({"labels": np.array(["a", "b"])}, r"labels\[0\] is a"),
    ],
)
def test_refuses_other_archives(tmp_path, change, message):
    arrays = {"images": faces(2), "labels": np.array([0, 1]), "classes": np.array(["angry", "happy"]), **change}
    path = archive(tmp_path / "faces.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(DataError, match=message):
        read_manifest(path)


def test_refuses_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "faces.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="no archive of NumPy arrays"):
        read_manifest(tmp_path / "faces.npz")
    with pytest.raises(DataError, match="file not found"):
        read_manifest(tmp_path / "other.npz")


def test_equal_pictures_are_one_file(tmp_path):
    images = faces(2)
    images[1] = images[0]
    rows = read_manifest(table(tmp_path / "faces.csv", images))
    assert rows["video"].nunique() == 1


def test_folders_of_images_have_no_sound(tmp_path):
    for split in ("train", "test"):
        for label in ("angry", "happy"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.fromarray(faces(1)[0]).save(tmp_path / split / label / "1.png")
    rows = read_class_folder(tmp_path, (".png",))
    assert rows["audio"].isna().all()
    assert rows["video"].notna().all()
    assert set(rows["split"]) == {"train", "test"}
    assert with_soundtracks(rows)["audio"].isna().all()


def test_a_model_trains_on_stills(tmp_path):
    """From an archive to a report, with the shipped recipe made small."""
    from hf_fer.recipe.shipped import shipped_recipes
    from hf_fer.run import main

    bright = np.clip(faces(24, 12) // 4 + np.repeat([0, 190], 12)[:, None, None], 0, 255).astype(np.uint8)
    split = np.array((["train"] * 8 + ["validation"] * 4) * 2)
    fields = {"labels": np.repeat([0, 1], 12), "classes": np.array(["fear", "surprise"]), "split": split}
    recipe = json.loads(shipped_recipes()["fer2013"].read_text())
    recipe["config_overrides"]["vision_config"] = {
        **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"image_size": 48, "patch_size": 12},
    }
    recipe["config_overrides"]["roi_top_k"] = 8
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    words = ["--dataset", str(archive(tmp_path / "faces.npz", images=bright, **fields)), "--num_train_epochs", "8"]
    words += ["--output_dir", str(tmp_path / "out"), "--dataloader_num_workers", "0", "--report_to", "none"]
    words += ["--dataloader_persistent_workers", "false", "--per_device_train_batch_size", "4"]
    assert not main([str(tmp_path / "recipe.json"), *words, "--disable_tqdm", "true"])
    metrics = json.loads((tmp_path / "out" / "report" / "metrics.json").read_text())
    assert metrics["validation"]["uar"] == 1.0
    assert set(metrics["data"]["counts"]["train"]) == {"fearful", "surprised"}
