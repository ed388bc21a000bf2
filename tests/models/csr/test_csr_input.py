"""csr on input in which something is wrong, and on a test set of its own."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from models.csr.test_csr_decoding import RAMP, write_dicom
from models.csr_runs import FAST, STAGES, metrics_of
from PIL import Image

from hf_fer.data.skipped import SkippedFile
from hf_fer.models.csr import CsrConfig
from hf_fer.run import main


class TestBadInput:
    """A folder of grey images, in which something is wrong."""

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        rng = np.random.default_rng(0)
        rows = []
        for index in range(24):
            image = rng.integers(0, 4096, (48, 48)).astype(np.uint16)
            name = f"{index}.dcm" if index % 2 else f"{index}.png"
            if index % 2:
                write_dicom(tmp_path / name, image)
            else:
                Image.fromarray(image).save(tmp_path / name)
            split = "val" if index >= 16 else "train"
            rows.append(
                {"image": name, "a": index % 3 == 0, "b": index % 4 == 0, "kind": "xy"[index % 2], "split": split}
            )
        table = pd.DataFrame(rows).astype({"a": int, "b": int})
        table["rare"] = (table["image"] == "5.dcm").astype(int)
        table["never"] = 0
        table.to_csv(tmp_path / "t.csv", index=False)
        return tmp_path

    def run(self, folder: Path, **fields) -> dict:
        recipe = {
            **FAST,
            **STAGES[1],
            "dataset": str(folder / "t.csv"),
            "concepts": {"a": "a", "b": "b"},
            "class_columns": ["kind"],
            "num_train_epochs": 1,
            "output_dir": str(folder / "out"),
            **fields,
        }
        (folder / "r.json").write_text(json.dumps(recipe))
        main([str(folder / "r.json")])
        return metrics_of(folder / "out")

    def error(self, capsys, folder: Path, **fields) -> str:
        with pytest.raises(SystemExit) as stopped:
            self.run(folder, **fields)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    def test_a_window_of_no_width_does_not_end_the_run(self, folder):
        write_dicom(folder / "7.dcm", RAMP[:48, :48], WindowCenter=9, WindowWidth=0)
        assert sum(self.run(folder)["data"]["counts"]["train"].values()) == 16

    def test_a_truncated_dicom_is_left_out(self, folder):
        victim = folder / "7.dcm"
        victim.write_bytes(victim.read_bytes()[:-900])
        metrics = self.run(folder, max_skipped_fraction=0.1)
        skipped = SkippedFile(folder / "out/report/skipped.jsonl").read()
        assert [entry["path"] for entry in skipped] == [victim.name]
        assert "truncated" in skipped[0]["reason"]
        assert sum(metrics["data"]["counts"]["train"].values()) == 15

    def test_a_test_set_of_its_own(self, folder):
        """The training table has no splits here; the card tells no folder of this machine."""
        rows = pd.read_csv(folder / "t.csv").drop(columns="split")
        rows[:18].to_csv(folder / "t.csv", index=False)
        rows[18:].to_csv(folder / "test.csv", index=False)
        metrics = self.run(folder, test_dataset=str(folder / "test.csv"), image_folder=str(folder))
        counts = {split: sum(of.values()) for split, of in metrics["data"]["counts"].items()}
        assert counts == {"train": 15, "validation": 3, "test": 6}
        assert str(folder) not in (folder / "out/README.md").read_text()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"test_boxes": "b.csv"}, "test_boxes goes with test_dataset, which is not set"),
            ({"test_dataset": "x.csv", "dataset": "demo"}, "does not go with the demo"),
            ({"test_dataset": "x.csv", "protocol": "group_kfold"}, "protocol 'group_kfold' draws one"),
        ],
    )
    def test_a_test_set_that_goes_with_nothing(self, folder, capsys, fields, message):
        assert message in self.error(capsys, folder, **fields)

    def test_a_box_outside_its_image(self, folder, capsys):
        (folder / "b.csv").write_text("image,concept,x_min,y_min,x_max,y_max\n3.dcm,a,1,1,9,9\n6.png,a,40,40,49,44\n")
        message = self.error(capsys, folder, boxes=str(folder / "b.csv"))
        assert "6.png" in message
        assert "the box 40, 40, 49, 44 of 'a' has no area or lies outside the image of 48 x 48 pixels" in message

    def test_an_8_bit_file_among_16_bit_ones(self, folder):
        Image.fromarray((RAMP[:48, :48] // 16).astype(np.uint8)).save(folder / "4.png")
        notes = self.run(folder)["data"]["notes"]
        assert any("differ in bit depth: 1 of 8 bits (such as 4.png), 12 of 12 bits" in note for note in notes)

    def test_an_unknown_concept(self, folder, capsys):
        assert "no column 'aa'; did you mean 'a'" in self.error(capsys, folder, concepts={"a": "aa"})

    def test_a_concept_with_no_positives(self, folder, capsys):
        message = self.error(capsys, folder, concepts={"a": "a", "never": "never"})
        assert "['never'] cannot be learnt: of 16 training images, [0] show it" in message
        assert "--min_concept_images" in message

    def test_rare_concepts_are_dropped_by_count_and_named(self, folder):
        concepts = {name: name for name in ("a", "rare", "b", "never")}
        metrics = self.run(folder, concepts=concepts, min_concept_images=2)
        assert "Dropped, with fewer than 2 training images: rare (1), never (0)." in metrics["data"]["notes"]
        assert CsrConfig.from_pretrained(folder / "out").concepts == ["a", "b"]

    def test_patients_on_both_sides(self, folder, capsys):
        table = pd.read_csv(folder / "t.csv").assign(patient=lambda rows: rows.index % 5)
        table.to_csv(folder / "t.csv", index=False)
        assert "in more than one split" in self.error(capsys, folder)

    def test_weights_that_do_not_fit(self, folder, capsys):
        torch.save({"some.key": torch.ones(1)}, folder / "w.pth")
        message = self.error(capsys, folder, backbone_weights=str(folder / "w.pth"))
        assert "left over: some.key" in message

    def test_a_measure_of_another_stage(self, folder, capsys):
        assert "Unknown metric_for_best_model 'macro_f1'" in self.error(
            capsys, folder, metric_for_best_model="macro_f1"
        )


def test_check_command(tmp_path, capsys):
    from hf_fer.data.check import main as check

    write_dicom(tmp_path / "a.dcm", RAMP)
    (tmp_path / "b.png").write_bytes(b"no image")
    assert check([str(tmp_path), "--task", "csr"]) == 1
    page = capsys.readouterr().out
    assert "2 files" in page
    assert "b.png: not readable as an image" in page
