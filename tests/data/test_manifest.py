"""Your own clips, from a file or a Hub data set."""

from pathlib import Path

import datasets
import pandas as pd
import pytest
from media import tone, write_clip

from hf_fer.data import check, manifest
from hf_fer.data.copies import file_digests
from hf_fer.data.hub_tables import class_name
from hf_fer.data.loading import DataError
from hf_fer.models.multimodal_fer.train.clips import with_wanted_modalities, without_unusable


def write(tmp_path, **columns) -> str:
    path = tmp_path / "clips.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def test_paths_are_relative_to_the_manifest(tmp_path):
    rows = manifest.read_manifest(write(tmp_path, audio=["a.wav", "/abs/b.wav"], label=["x", "y"]))
    assert rows["audio"].tolist() == [str(tmp_path / "a.wav"), "/abs/b.wav"]
    assert rows["video"].tolist() == [None, None]


def test_a_column_without_a_group_is_none(tmp_path):
    rows = manifest.read_manifest(write(tmp_path, audio=["a.wav", "b.wav"], label=["x", "y"], group=[None, None]))
    assert "group" not in rows


def test_what_is_missing_is_none(tmp_path):
    rows = manifest.read_manifest(write(tmp_path, audio=["a.wav", None], video=[None, "b.mp4"], label=["x", "y"]))
    assert rows["audio"].tolist() == [str(tmp_path / "a.wav"), None]
    assert rows["video"].tolist() == [None, str(tmp_path / "b.mp4")]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"audio": ["a"]}, "has no label column"),
        ({"label": ["x"], "paht": ["a"]}, "has no video or audio column"),
        ({"label": [None, None], "audio": ["a", "b"]}, "row 1 has no label, and no row has"),
        ({"label": ["x", "y"], "audio": ["a", "b"], "group": ["p", None]}, "row 2 has no group"),
        ({"label": ["x"], "audio": [None]}, "row 1 has neither"),
        ({"label": ["x", None, "y"], "audio": ["a", "b", "c"], "group": ["p", "p", None]}, "row 3 has no group"),
        ({"label": ["x"], "audio": ["a"], "split": ["tset"]}, "row 1 has split 'tset'"),
    ],
)
def test_bad_manifests_name_the_row(tmp_path, columns, message):
    with pytest.raises(DataError, match=message):
        manifest.read_manifest(write(tmp_path, **columns))


def test_an_empty_split_column_is_none(tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("audio,label,split\na.wav,x,\nb.wav,y,\n")
    assert "split" not in manifest.read_manifest(table)
    table.write_text("audio,label,split\na.wav,x,train\nb.wav,y,\n")
    with pytest.raises(DataError, match="row 2 has no split, though others have"):
        manifest.read_manifest(table)


def test_a_zero_byte_in_a_name_is_a_missing_file(tmp_path, capsys):
    table = tmp_path / "m.csv"
    rows = "".join(f"a{n}\0.wav,{'xy'[n % 2]},g{n}\n" for n in range(8))
    table.write_text(f"audio,label,group\n{rows}")
    assert check.main([str(table)]) == 1
    assert "8 unusable files" in capsys.readouterr().out
    assert len(set(file_digests([str(tmp_path / f"a{n}\0.wav") for n in range(2)]).values())) == 2


def test_rows_without_label_or_file_are_left_out(tmp_path):
    columns = {"label": ["x", " ", "y", None], "audio": ["a", "b", None, "d"], "group": ["p", None, None, "q"]}
    path = write(tmp_path, **columns)
    rows, skipped = manifest.complete_rows(manifest.read_manifest(path), str(path))
    assert rows["label"].tolist() == ["x"]
    assert skipped == [
        {"path": f"{path} row 2", "reason": "has no label"},
        {"path": f"{path} row 3", "reason": "has neither video nor audio"},
        {"path": f"{path} row 4", "reason": "has no label"},
    ]


def test_usual_columns_are_found(tmp_path):
    path = write(tmp_path, Emotion=["x", "y"], speaker=["01", "02"], file_name=["a.mp4", "b.WAV"])
    rows = manifest.read_manifest(path)
    assert rows["label"].tolist() == ["x", "y"]
    assert rows["group"].tolist() == ["01", "02"]
    assert rows["video"].tolist() == [str(tmp_path / "a.mp4"), None]
    assert rows["audio"].tolist() == [str(tmp_path / "a.mp4"), str(tmp_path / "b.WAV")]


def test_a_video_without_a_column_for_sound_has_its_own(tmp_path):
    rows = manifest.read_manifest(write(tmp_path, video=["a.mp4", "a.npz::b", "c.npy"], label=["x", "y", "x"]))
    assert manifest.with_soundtracks(rows)["audio"].tolist() == [str(tmp_path / "a.mp4"), None, None]


@pytest.mark.parametrize("keep_parts", [False, True])
def test_clips_that_lack_a_modality_are_named(keep_parts):
    rows = pd.DataFrame({"video": ["a.mp4", None, "c.mp4", None], "audio": ["a.mp4", "b.wav", "c.mp4", None]})
    reasons = pd.DataFrame({"audio": [None, None, "noise", "no file"], "video": [None, "no file", "dark", "no file"]})
    kept, skipped = without_unusable(rows, reasons, keep_parts=keep_parts)
    assert kept.index.tolist() == ([0, 1] if keep_parts else [0])
    assert kept["video"].tolist() == (["a.mp4", None] if keep_parts else ["a.mp4"])
    assert skipped[-2:] == [
        {"path": "c.mp4", "reason": "noise; dark"},
        {"path": "row 4", "reason": "no file"},
    ]
    if not keep_parts:
        assert skipped[0] == {"path": "b.wav", "reason": "no file"}


@pytest.mark.parametrize(("column", "wanted", "remedy"), [("audio", "video", "audio"), ("video", "audio", "video")])
def test_a_modality_without_a_column_is_one_message(tmp_path, column, wanted, remedy):
    suffix = {"audio": "wav", "video": "npy"}[column]
    rows = manifest.read_manifest(write(tmp_path, **{column: [f"a.{suffix}", f"b.{suffix}"]}, label=["x", "y"]))
    with pytest.raises(DataError, match=f"has no {wanted} file in any row. Pass --modalities {remedy} "):
        with_wanted_modalities(rows, ["audio", "video"], "m.csv")


def test_a_folder_per_class(tmp_path):
    for name in ("happy/a.mp4", "happy/._a.mp4", "sad/deep/b.WAV", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    rows = manifest.read_class_folder(tmp_path, (".mp4", ".wav"))
    assert rows["label"].tolist() == ["happy", "sad"]
    assert rows["video"].isna().tolist() == [False, True]
    assert "no 'group' column" in manifest.assign_protocol(rows.assign(split="train"), "manifest", seed=0)[1][0]
    assert manifest.read_class_folder(tmp_path / "sad", (".wav",)) is None


def test_given_splits_are_kept_and_checked(tmp_path):
    columns = {"label": list("xyxy"), "audio": list("abcd"), "split": ["train", "dev", "test", "train"]}
    rows, notes = manifest.assign_protocol(manifest.read_manifest(write(tmp_path, **columns)), "manifest", seed=0)
    assert rows["split"].tolist() == ["train", "validation", "test", "train"]
    assert "no 'group' column" in notes[0]
    grouped = manifest.read_manifest(write(tmp_path, **columns, group=["p", "q", "p", "p"]))
    with pytest.raises(DataError, match="p "):
        manifest.assign_protocol(grouped, "manifest", seed=0)
    _, notes = manifest.assign_protocol(grouped, "manifest_leaky", seed=0)
    assert "LEAKY" in notes[0]


def test_splits_are_made_group_disjoint(tmp_path):
    columns = {"label": list("xy") * 40, "audio": [str(n) for n in range(80)], "group": [n // 4 for n in range(80)]}
    rows, notes = manifest.assign_protocol(manifest.read_manifest(write(tmp_path, **columns)), "manifest", seed=0)
    assert rows.groupby("group")["split"].nunique().max() == 1
    assert set(rows["split"]) == {"train", "validation", "test"}
    assert not notes


def test_rows_without_a_split_beside_a_test_set():
    rows = pd.DataFrame({"label": list("xy") * 30, "group": [f"g{number // 3}" for number in range(60)]})
    rows["split"] = [None] * 42 + ["test"] * 18
    split = manifest.assign_protocol(rows, "manifest", seed=0)[0]["split"]
    assert set(split[:42]) == {"train", "validation"}
    assert set(split[42:]) == {"test"}
    assert rows.assign(split=split).groupby("group")["split"].nunique().max() == 1
    with pytest.raises(DataError, match="g0 "):
        manifest.assign_protocol(rows.assign(group=rows["group"].replace("g19", "g0")), "manifest", seed=0)


def test_unknown_protocol(tmp_path):
    rows = manifest.read_manifest(write(tmp_path, label=["x"], audio=["a"]))
    with pytest.raises(DataError, match="random_leaky"):
        manifest.assign_protocol(rows, "actors_16_4_4", seed=0)


def test_a_data_set_with_embedded_audio(tmp_path):
    """As a Hub data set comes: bytes in Parquet, class names in the features, its own splits."""
    sound = write_clip(tmp_path / "s.wav", audio=tone(0.2, 16000)).read_bytes()
    features = datasets.Features(
        {
            "recording": {"path": datasets.Value("string"), "bytes": datasets.Value("binary")},
            "emotion": datasets.ClassLabel(names=["calm", "angry"]),
        }
    )
    for split in ("train", "test"):
        data = datasets.Dataset.from_dict(
            {"recording": [{"path": "s.wav", "bytes": sound}], "emotion": [1]}, features=features
        )
        data = data.cast_column("recording", datasets.Audio(decode=False))
        (tmp_path / "set" / "data").mkdir(parents=True, exist_ok=True)
        assert isinstance(data.features["recording"], datasets.Audio)
        data.to_parquet(tmp_path / "set" / "data" / f"{split}-0.parquet")
    rows = manifest.read_hub_dataset(str(tmp_path / "set"))
    assert rows["label"].tolist() == ["angry", "angry"]
    assert sorted(rows["split"]) == ["test", "train"]
    assert Path(rows["audio"][0]).read_bytes() == sound
    assert sorted(rows["row"]) == ["test row 1", "train row 1"]


def test_a_class_number_below_0_is_no_label():
    feature = datasets.ClassLabel(names=["calm", "angry"])
    assert [class_name(value, feature) for value in (1, -1, None)] == ["angry", None, None]


def test_what_is_nowhere(tmp_path):
    with pytest.raises(DataError, match="neither 'demo'"):
        manifest.read_hub_dataset("nobody/nothing")


def test_group_folds_test_every_group_once():
    rows = pd.DataFrame({"label": list("ab") * 20, "group": [f"g{number // 4}" for number in range(40)]})
    tested = []
    for fold in range(5):
        split = manifest.assign_protocol(rows, "group_kfold", seed=0, fold=fold, num_folds=5)[0]["split"]
        sides = {name: set(rows["group"][split == name]) for name in ("train", "validation", "test")}
        assert all(sides.values())
        assert (
            not sides["train"] & sides["test"]
            | sides["train"] & sides["validation"]
            | sides["validation"] & sides["test"]
        )
        tested += sorted(sides["test"])
    assert sorted(tested) == sorted(set(rows["group"]))


def test_group_folds_that_cannot_be_drawn():
    rows = pd.DataFrame({"label": ["a", "b"] * 4, "group": list("xxyyzzzz")})
    with pytest.raises(DataError, match="Lower num_folds"):
        manifest.assign_protocol(rows, "group_kfold", seed=0, num_folds=4)
    with pytest.raises(DataError, match="fold must be 0 to 2"):
        manifest.assign_protocol(rows, "group_kfold", seed=0, fold=3, num_folds=3)
    with pytest.raises(DataError, match="needs a 'group' column"):
        manifest.assign_protocol(rows.drop(columns="group"), "group_kfold", seed=0)
