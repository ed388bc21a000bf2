"""What makes a stage run again: any file or folder that its recipe names."""

import pytest

from hf_fer.experiment.stages import contents, fingerprint
from hf_fer.task.find import parse_task

FILES = ("dataset", "test_dataset", "boxes", "image_labels", "test_boxes", "test_image_labels")
FOLDERS = ("image_folder", "test_image_folder")


@pytest.mark.parametrize("changed", [*FILES, *FOLDERS])
def test_a_changed_input_changes_the_fingerprint(tmp_path, changed):
    fields = []
    for name in FILES:
        (tmp_path / f"{name}.csv").write_text("image,a\n", encoding="utf-8")
        fields += [f"--{name}", str(tmp_path / f"{name}.csv")]
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"one")
        fields += [f"--{name}", str(tmp_path / name)]
    task = parse_task(["--task", "csr", "--stage", "1", "--output_dir", str(tmp_path / "out"), *fields])
    before = fingerprint(task)
    assert fingerprint(task) == before
    inside = tmp_path / changed / "1.png" if changed in FOLDERS else tmp_path / f"{changed}.csv"
    inside.write_bytes(b"two, longer")
    assert fingerprint(task) != before


def test_a_file_added_to_a_folder_counts(tmp_path):
    before = contents(tmp_path)
    (tmp_path / "new.png").write_bytes(b"")
    assert contents(tmp_path) != before
    assert contents(tmp_path / "missing") is None
