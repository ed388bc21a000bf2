"""A folder of one subfolder per class, for every system."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image
from transformers import ViTImageProcessor

from hf_fer.data.check import main as check
from hf_fer.data.files import class_folders
from hf_fer.data.loading import DataError
from hf_fer.models.csr import CsrConfig, CsrForImageClassification, CsrProcessor
from hf_fer.run import main
from hf_fer.task.find import parse_task


def images(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def words(folder: Path, **fields) -> list[str]:
    """A command line of csr."""
    fields = {"task": "csr", "dataset": folder, "use_cpu": True, **fields}
    return [word for name, value in fields.items() for word in (f"--{name}", str(value))]


def test_folders_of_splits_hold_those_of_the_classes(tmp_path):
    names = ["train/a/1.x", "train/b/deep/2.x", "Val/a/3.x", "test/b/4.x", "test/.a/5.x", "__MACOSX/a/6.x"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rows = class_folders(tmp_path, lambda path: path.suffix == ".x").sort_values("path")
    assert sorted(zip(rows["label"], rows["split"], strict=True)) == [
        ("a", "train"), ("a", "validation"), ("b", "test"), ("b", "train")
    ]  # fmt: skip


@pytest.mark.parametrize("stage", [1, 2])
def test_images_without_concepts_say_what_is_needed(tmp_path, stage):
    folder = images(tmp_path, "benign/1.png", "malign/2.png")
    task = parse_task(words(folder))
    task.model_args.stage = stage
    with pytest.raises(DataError, match=r"has no concept labels.*--concepts.*stage 3"):
        task.load_data()


def test_stage_3_learns_and_scores_classes_from_folders(tmp_path):
    places = [f"{split}/{kind}" for split in ("train", "val", "test") for kind in ("bad", "good")]
    folder = images(tmp_path / "set", *(f"{place}/{number}.png" for place in places for number in range(3)))
    sizes = {"hidden_sizes": [8, 8], "depths": [1, 1], "num_stages": 2}
    config = CsrConfig(
        backbone="convnext", backbone_config=sizes, concepts=["c", "d"], num_prototypes=2, prototype_size=4, stage=2
    )
    CsrForImageClassification(config).save_pretrained(tmp_path / "two")
    CsrProcessor(ViTImageProcessor(size={"height": 32, "width": 32})).save_pretrained(tmp_path / "two")
    fields = {"model_name_or_path": tmp_path / "two", "output_dir": tmp_path / "out", "num_train_epochs": 1}
    main(words(folder, stage=3, report_to="none", disable_tqdm=True, **fields))
    metrics = json.loads((tmp_path / "out/report/metrics.json").read_text())["test"]
    assert {"class_auroc", "macro_f1", "accuracy"} <= set(metrics)
    assert not {"concept_auroc", "per_concept", "reject_zero"} & set(metrics)
    assert "has no concept labels" in (tmp_path / "out/report/report.md").read_text()


def test_check_counts_the_classes_of_every_system(tmp_path, capsys):
    images(tmp_path / "images", "benign/1.png", "malign/2.png", "malign/3.png")
    for name in ("happy/1.wav", "sad/2.wav", "sad/3.wav"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "clips" / name, np.random.default_rng(int(name[-5])).normal(0, 0.1, 8000), 16_000)
    for name in ("en/1.txt", "vi/2.txt", "vi/3.txt"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(f"xin chào {name}")
    expected = {
        "csr": ("images", "by label: benign 1, malign 2"),
        "multimodal_fer": ("clips", "by label: happy 1, sad 2"),
        "language_id": ("texts", "by label: en 1, vi 2"),
    }
    for task, (folder, line) in expected.items():
        assert check([str(tmp_path / folder), "--task", task]) == 0
        assert line in capsys.readouterr().out


def test_check_finds_the_usual_columns_of_images(tmp_path, capsys):
    images(tmp_path, "1.png", "2.png")
    pd.DataFrame({"file": ["1.png", "2.png"], "Class": ["a", "b"], "patient": ["x", "y"]}).to_csv(tmp_path / "t.csv")
    assert check([str(tmp_path / "t.csv"), "--task", "csr"]) == 0
    out = capsys.readouterr().out
    assert "by label: a 1, b 1" in out
    assert "by group: x 1, y 1" in out
