import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from hf_fer.models.multimodal_fer.train.demo import (
    DEMO_NOTICE,
    EMOTIONS,
    FACES,
    MARKER_NAME,
    NOTICE_NAME,
    VOICES,
    main,
    make_demo_ravdess,
)

SMALL = {"num_actors": 1, "clips_per_emotion": 1}
FIRST = "Actor_01/01-01-01-01-01-01-01.mp4"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_ravdess(tmp_path_factory.mktemp("shared") / "demo", **SMALL)


@pytest.fixture
def copied(demo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo, tmp_path / "demo"))


def clip_names(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp4"))


def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(path)) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return frames, samples


def test_names_follow_ravdess(tmp_path: Path) -> None:
    root = make_demo_ravdess(tmp_path / "demo", num_actors=1, clips_per_emotion=2)
    names = clip_names(root)
    assert len(names) == 8 * 2
    for name in names:
        folder, stem = name.removesuffix(".mp4").split("/")
        modality, channel, emotion, intensity, statement, repetition, actor = stem.split("-")
        assert folder == f"Actor_{actor}"
        assert (modality, channel) == ("01", "01")
        assert 1 <= int(emotion) <= 8
        assert {intensity, statement, repetition} <= {"01", "02"}
        assert not (emotion == "01" and intensity == "02")


def test_clip_is_a_real_synthetic_marked_mp4(demo: Path) -> None:
    with av.open(str(demo / FIRST)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.width, video.height) == ("h264", 96, 96)
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 16_000, 1)
        assert "ynthetic" in container.metadata["title"]
        assert container.metadata["comment"] == DEMO_NOTICE
    frames, samples = decode(demo / FIRST)
    assert 1.0 <= len(samples) / 16_000 <= 1.35
    assert 14 <= len(frames) <= 18
    assert 0.001 < np.abs(samples).mean() < 0.5


def test_same_seed_same_clips_other_seed_other_clips(demo: Path, tmp_path: Path) -> None:
    again = make_demo_ravdess(tmp_path / "again", **SMALL)
    other = make_demo_ravdess(tmp_path / "other", seed=1, **SMALL)
    assert clip_names(again) == clip_names(demo) == clip_names(other)
    for name in clip_names(demo)[::3]:
        for ours, theirs in zip(decode(demo / name), decode(again / name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(decode(demo / FIRST)[0][:10], decode(other / FIRST)[0][:10])
    assert not np.array_equal(decode(demo / FIRST)[1][:9000], decode(other / FIRST)[1][:9000])


def test_complete_set_is_reused(demo: Path) -> None:
    before = (demo / FIRST).stat()
    assert make_demo_ravdess(demo, **SMALL) == demo
    after = (demo / FIRST).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("lost", [MARKER_NAME, FIRST])
def test_interrupted_set_is_rebuilt(copied: Path, lost: str) -> None:
    whole = clip_names(copied)
    (copied / lost).unlink()
    (copied / whole[3]).write_bytes(b"half a clip")
    make_demo_ravdess(copied, **SMALL)
    assert clip_names(copied) == whole
    assert len(decode(copied / whole[3])[0])
    assert (copied / MARKER_NAME).is_file()
    assert [path.name for path in copied.parent.iterdir()] == ["demo"]


def test_other_arguments_replace_the_set(copied: Path) -> None:
    make_demo_ravdess(copied, num_actors=2, clips_per_emotion=1)
    assert [name.split("/")[0] for name in clip_names(copied)] == ["Actor_01"] * 8 + ["Actor_02"] * 8


def test_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("hf_fer.models.multimodal_fer.train.demo._encode", full_disk)
    with pytest.raises(OSError, match="no space left"):
        make_demo_ravdess(tmp_path / "demo", **SMALL)
    assert not list(tmp_path.iterdir())


def test_two_writers_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(make_demo_ravdess, tmp_path / "demo", **SMALL) for _ in range(2)]
    assert [len(clip_names(job.result())) for job in jobs] == [8, 8]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("content", ["notes.txt", "Actor_01"])
def test_foreign_folder_is_refused_and_untouched(tmp_path: Path, content: str) -> None:
    (tmp_path / content).mkdir()
    with pytest.raises(FileExistsError, match="choose another folder") as error:
        make_demo_ravdess(tmp_path, **SMALL)
    assert str(tmp_path) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [content]


def test_own_files_inside_a_demo_set_are_not_deleted(copied: Path) -> None:
    (copied / "results.json").write_text("{}")
    with pytest.raises(FileExistsError, match="not part of a synthetic demo set"):
        make_demo_ravdess(copied, seed=1, **SMALL)
    assert (copied / "results.json").is_file()
    assert (copied / FIRST).is_file()


@pytest.mark.parametrize(
    ("name", "value"), [("num_actors", 0), ("num_actors", 25), ("clips_per_emotion", 5), ("seed", -1)]
)
def test_arguments_out_of_range(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        make_demo_ravdess(tmp_path / "demo", **{name: value})
    assert not list(tmp_path.iterdir())


def test_only_face_and_voice_together_name_the_emotion() -> None:
    faces, voices = zip(*EMOTIONS.values(), strict=True)
    assert set(faces) == set(FACES)
    assert set(voices) == set(VOICES)
    assert len(EMOTIONS) == len(set(EMOTIONS.values())) == 8
    assert len(set(faces)) == len(set(voices)) == 5
    assert len(set(FACES.values())) == len(set(VOICES.values())) == 5


def test_notice_and_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path / "demo"), "--num_actors", "1", "--clips_per_emotion", "1"])
    assert "synthetic" in DEMO_NOTICE
    assert DEMO_NOTICE in (tmp_path / "demo" / NOTICE_NAME).read_text(encoding="utf-8")
    assert DEMO_NOTICE in capsys.readouterr().out
