"""Which files of a folder are data."""

import os
from pathlib import Path

import pytest
from media import tone, write_clip

from hf_fer.data import check
from hf_fer.data.files import visible_files
from hf_fer.data.loading import DataError
from hf_fer.models.multimodal_fer.train import ravdess
from hf_fer.models.multimodal_fer.train.clips import media_files


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    for name in ("a.wav", "._a.wav", ".cache/b.wav", "__MACOSX/c.wav", "sub/d.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [path.relative_to(tmp_path).as_posix() for path in visible_files(tmp_path)] == ["a.wav", "sub/d.wav"]


def test_ravdess_from_a_mac_has_no_twins(tmp_path):
    name = "03-01-01-01-01-01-01.wav"
    write_clip(tmp_path / "Actor_01" / name, audio=tone(0.1, 16000))
    (tmp_path / "Actor_01" / f"._{name}").write_bytes(b"twin")
    files, skipped = ravdess.scan(tmp_path, "both")
    assert [Path(path).name for path in files["path"]] == [name]
    assert not skipped


def test_a_name_that_is_not_utf_8_is_one_message(tmp_path, capsys):
    for place in (b"x/\xe9.wav", b"y/a.wav"):
        path = os.path.join(os.fsencode(tmp_path), place)
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(b"RIFF")
    assert len(visible_files(tmp_path, any_name=True)) == 2
    with pytest.raises(DataError, match=r"x/\\udce9.wav: its name or folder is not UTF-8 .1 such files"):
        visible_files(tmp_path)
    for system in ("multimodal_fer", "csr", "language_id"):
        assert check.main([str(tmp_path), "--task", system]) == 2
        assert "Rename it, as `convmv" in capsys.readouterr().err


def test_clips_of_any_ending_are_counted(tmp_path):
    for name in ("crema.flv", "PTT.OPUS", "x.MP3", "._y.mp3", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    files, _ = media_files(tmp_path)
    assert sorted(Path(path).name for path in files["path"]) == ["PTT.OPUS", "crema.flv", "x.MP3"]
