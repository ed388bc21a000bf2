"""The list of skipped examples: one entry per file, named relative to the data set."""

from pathlib import Path

import pytest

from hf_fer.data.loading import DataError
from hf_fer.data.skipped import SkippedFile, data_folder, enforce_skip_limit, saved_path


def test_each_file_is_listed_once(tmp_path):
    skipped = SkippedFile(tmp_path / "report" / "skipped.jsonl")
    assert skipped.read() == []
    for _ in range(2):
        skipped.append([{"path": "a", "reason": "x"}, {"path": "ü", "reason": "y"}])
    assert [entry["path"] for entry in skipped.read()] == ["a", "ü"]


def test_the_limit_stops_with_the_first_files_named():
    skipped = [{"path": f"{index}.mp4", "reason": "empty"} for index in range(7)]
    enforce_skip_limit(skipped, 700, 0.01)
    with pytest.raises(DataError, match="7 of 699"):
        enforce_skip_limit(skipped, 699, 0.01)
    with pytest.raises(DataError, match=r"7 of 100(?s:.)*0.mp4: empty(?s:.)*and 2 more"):
        enforce_skip_limit(skipped, 100, 0.01)


def test_files_are_named_relative_to_the_data_set(tmp_path, monkeypatch):
    clips = tmp_path / "set" / "clips"
    clips.mkdir(parents=True)
    table = tmp_path / "set" / "clips.csv"
    table.touch()
    folder = data_folder(str(table))
    assert saved_path(str(clips / "a.mp4"), folder) == "clips/a.mp4"
    assert saved_path(f"{table} row 4", folder) == "clips.csv row 4"
    assert saved_path(str(tmp_path / "elsewhere.mp4"), folder) == "../elsewhere.mp4"
    monkeypatch.chdir(tmp_path)
    assert saved_path("set/clips/a.mp4", data_folder("set/clips.csv")) == "clips/a.mp4"
    assert saved_path(str(clips / "a.mp4"), data_folder("set")) == "clips/a.mp4"
    assert saved_path("demo en 4", data_folder("set")) == "demo en 4"


def test_data_of_the_hub_keeps_its_names():
    assert data_folder("owner/set") is data_folder(None) is None
    assert saved_path("clips/a.mp4", None) == "clips/a.mp4"


def test_a_reason_that_names_a_file_names_it_likewise(tmp_path):
    skipped = SkippedFile(tmp_path / "skipped.jsonl", tmp_path)
    skipped.append([{"path": str(tmp_path / "b.wav"), "reason": f"a copy of {tmp_path / 'a.wav'}"}])
    assert skipped.read() == [{"path": "b.wav", "reason": "a copy of a.wav"}]
    assert str(tmp_path) not in Path(tmp_path / "skipped.jsonl").read_text()
