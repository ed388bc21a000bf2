"""`python -m hf_fer.data.check` counts examples and lists names that look alike."""

import pandas as pd
import pytest
from media import talking_clip

from hf_fer.data.check import main, print_findings


def test_a_clip_with_sound_and_pictures_in_one_file_counts_once(capsys):
    rows = [(f"{n}.mp4", n, label, "anna") for n, label in enumerate(["sad", "happy"] * 12)]
    files = pd.DataFrame(rows * 2, columns=["path", "example", "label", "group"])
    print_findings(files.assign(modality=["audio"] * 24 + ["video"] * 24), [], [])
    out = capsys.readouterr().out
    assert "24 examples in 24 files" in out
    assert "by label: happy 12, sad 12" in out
    assert "by modality: audio-video 24" in out


def test_labels_and_groups_that_look_alike_are_listed(capsys):
    print_findings(pd.DataFrame({"path": ["a", "b"], "label": ["Happy", "happy"], "group": ["Ann", "ann"]}), [], [])
    out = capsys.readouterr().out
    assert "'Happy' and 'happy' look alike" in out
    assert "group 'Ann' and 'ann' look alike" in out


@pytest.mark.parametrize("system", ["csr", "language_id", "multimodal_fer", "speech_to_text"])
def test_a_path_that_cannot_be_is_one_line(system, capsys):
    for path, message in (("", "the path is empty"), ("x" * 400, "no file can have so long a name")):
        assert main([path, "--task", system]) == 2
        assert message in capsys.readouterr().err


def test_an_unknown_system_is_one_line(capsys, tmp_path):
    assert main([str(tmp_path), "--task", "csrr"]) == 2
    assert "hf_fer: error: Unknown task 'csrr'; did you mean 'csr'?" in capsys.readouterr().err


def test_a_table_that_cannot_be_split_is_looked_at_all_the_same(tmp_path, capsys):
    talking_clip(tmp_path / "a.mp4")
    (tmp_path / "t.csv").write_text("video,label\na.mp4,happy\n,sad\n")
    assert main([str(tmp_path / "t.csv")]) == 1
    page = capsys.readouterr().out
    for expected in ("1 examples in 1 files", "by label: happy 1", "too few to split", "row 2: has neither"):
        assert expected in page
