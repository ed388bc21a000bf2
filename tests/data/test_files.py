"""Which files of a folder are data."""

from pathlib import Path

from media import tone, write_clip

from hf_fer.data.files import visible_files
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


def test_clips_of_any_ending_are_counted(tmp_path):
    for name in ("crema.flv", "PTT.OPUS", "x.MP3", "._y.mp3", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    files, _ = media_files(tmp_path)
    assert sorted(Path(path).name for path in files["path"]) == ["PTT.OPUS", "crema.flv", "x.MP3"]
