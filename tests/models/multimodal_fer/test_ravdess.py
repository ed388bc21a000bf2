"""RAVDESS names, modalities of one performance, and protocols."""

import pytest

from hf_fer.data.loading import DataError
from hf_fer.models.multimodal_fer.train import ravdess


@pytest.fixture
def folder(tmp_path):
    def make(*names: str):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path

    return make


def rows_of(root, modalities=("audio", "video"), channel="speech"):
    files, _ = ravdess.scan(root, channel)
    return ravdess.performances(files, list(modalities))


def test_names_are_read_at_any_depth(folder):
    root = folder("a/b/Actor_12/01-01-05-02-01-02-12.mp4")
    rows, _ = rows_of(root)
    row = rows.iloc[0]
    assert (row["label"], row["actor"], row["sex"]) == ("angry", 12, "female")
    assert (row["intensity"], row["statement"], row["repetition"]) == ("strong", "Kids are talking by the door", 2)


def test_names_out_of_pattern_are_listed(folder):
    root = folder(
        "01-01-05-01-01-01-01.mp4", "holiday.mp4", "01-01-09-01-01-01-01.mp4", "01-01-05-01-01-01-25.wav", "notes.txt"
    )
    files, skipped = ravdess.scan(root)
    assert len(files) == 1
    assert len(skipped) == 3
    assert all("file name" in entry["reason"] for entry in skipped)


class TestOnePerformance:
    full, silent, sound = (f"0{code}-01-03-01-01-01-02" for code in (1, 2, 3))

    def test_full_file_wins_and_is_never_counted_twice(self, folder):
        rows, notes = rows_of(folder(f"{self.full}.mp4", f"{self.silent}.mp4", f"{self.sound}.wav"))
        assert len(rows) == 1
        assert rows["video"][0].endswith(f"{self.full}.mp4")
        assert rows["audio"][0] == rows["video"][0]
        assert "2 files repeat a performance" in notes[0]

    def test_silent_picture_is_paired_with_its_sound(self, folder):
        rows, notes = rows_of(folder(f"{self.silent}.mp4", f"{self.sound}.wav"))
        assert len(rows) == 1
        assert rows["video"][0].endswith(f"{self.silent}.mp4")
        assert rows["audio"][0].endswith(f"{self.sound}.wav")
        assert not notes

    def test_audio_alone_prefers_the_sound_file(self, folder):
        root = folder(f"{self.full}.mp4", f"{self.sound}.wav")
        rows, _ = rows_of(root, ["audio"])
        assert rows["audio"][0].endswith(f"{self.sound}.wav")
        assert rows["video"][0] is None

    def test_sound_only_has_no_video(self, folder):
        rows, _ = rows_of(folder(f"{self.sound}.flac", "01-01-05-01-01-01-02.mp4"))
        assert rows["video"].isna().tolist() == [True, False]
        assert rows["video"][0] is None

    def test_copies_are_left_aside_and_lossless_is_kept(self, folder):
        rows, notes = rows_of(folder(f"x/{self.sound}.flac", f"y/{self.sound}.flac", f"z/{self.sound}.mp4"), ["audio"])
        assert len(rows) == 1
        assert rows["audio"][0].endswith(f"x/{self.sound}.flac")
        assert "2 files are further copies" in notes[0]


def test_channels(folder):
    root = folder("03-01-03-01-01-01-02.wav", "03-02-03-01-01-01-02.wav")
    assert [len(rows_of(root, channel=name)[0]) for name in ("speech", "song", "both")] == [1, 1, 2]
    with pytest.raises(DataError, match="none of channel 'song'"):
        ravdess.scan(folder("s/03-01-03-01-01-01-02.wav") / "s", "song")


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="Download RAVDESS"):
        ravdess.scan(tmp_path / "no")
    with pytest.raises(DataError, match="no RAVDESS recordings"):
        ravdess.scan(tmp_path)


@pytest.fixture
def all_actors(folder):
    root = folder(
        *(
            f"03-01-0{emotion}-01-01-0{take}-{actor:02d}.wav"
            for actor in range(1, 25)
            for emotion in range(1, 9)
            for take in (1, 2)
        )
    )
    return rows_of(root, ["audio"])[0]


def actors(rows, split):
    return set(rows[rows["split"] == split]["actor"])


def test_actors_16_4_4(all_actors):
    rows, notes = ravdess.assign_protocol(all_actors, "actors_16_4_4", fold=0, seed=0)
    assert actors(rows, "train") == set(range(1, 17))
    assert actors(rows, "validation") == {17, 18, 19, 20}
    assert actors(rows, "test") == {21, 22, 23, 24}
    assert not notes


def test_luna_5fold(all_actors):
    tested = []
    for fold in range(5):
        rows, _ = ravdess.assign_protocol(all_actors, "luna_5fold", fold=fold, seed=0)
        sides = [actors(rows, split) for split in ("train", "validation", "test")]
        assert sides[2] == set(ravdess.LUNA_FOLDS[fold])
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
        tested += sorted(sides[2])
    assert sorted(tested) == list(range(1, 25))
    with pytest.raises(DataError, match="fold must be"):
        ravdess.assign_protocol(all_actors, "luna_5fold", fold=5, seed=0)


def test_random_leaky_says_so(all_actors):
    rows, notes = ravdess.assign_protocol(all_actors, "random_leaky", fold=0, seed=0)
    assert actors(rows, "train") & actors(rows, "test")
    assert "LEAKY" in notes[0]


def test_unknown_protocol_and_absent_splits(all_actors):
    with pytest.raises(DataError, match="luna_5fold"):
        ravdess.assign_protocol(all_actors, "honest", fold=0, seed=0)
    rows, _ = ravdess.assign_protocol(all_actors[all_actors["actor"] <= 20], "actors_16_4_4", fold=0, seed=0)
    assert set(ravdess.absent_splits(rows)) == {"test"}


def test_real_names(real_data):
    files, skipped = ravdess.scan(real_data / "ravdess" / "audio16k")
    rows, _ = ravdess.performances(files, ["audio"])
    assert len(rows) == 1200
    assert not skipped
