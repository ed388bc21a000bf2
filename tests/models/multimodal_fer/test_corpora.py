"""Corpora read from their own folders and file names, used together, with classes renamed."""

from pathlib import Path

import pandas as pd
import pytest
from media import tone, write_clip

from hf_fer.data.loading import DataError
from hf_fer.models.multimodal_fer.train.corpora import read_corpus
from hf_fer.models.multimodal_fer.train.reading import known_rows, read_source
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.find import load_task, parse_task

NAMES = {
    "crema_d": ("AudioWAV/1001_DFA_ANG_XX.wav", "VideoFlash/1001_DFA_ANG_XX.flv", "AudioWAV/1091_IEO_HAP_HI.wav"),
    "emodb": ("wav/03a01Fa.wav", "wav/08b10Wc.wav", "wav/11a04Lb.wav"),
    "savee": ("AudioData/DC/a01.wav", "AudioData/JK/su15.wav", "AudioData/KL/n30.wav"),
    "tess": ("OAF_angry/OAF_back_angry.wav", "YAF_ps/YAF_dog_ps.wav", "OAF_neutral/OA_bite_neutral.wav"),
}
CLIPS = {
    "crema_d": {("angry", "crema_d-1001"), ("happy", "crema_d-1091")},
    "emodb": {("happy", "emodb-03"), ("angry", "emodb-08"), ("bored", "emodb-11")},
    "savee": {("angry", "savee-DC"), ("surprised", "savee-JK"), ("neutral", "savee-KL")},
    "tess": {("angry", "tess-OAF"), ("surprised", "tess-YAF"), ("neutral", "tess-OAF")},
}


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.mark.parametrize("corpus", NAMES)
def test_names_say_what_is_in_a_file(tmp_path, corpus):
    found = read_corpus(touch(tmp_path, *NAMES[corpus], "Documents/holiday.wav"))
    assert set(zip(found.rows["label"], found.rows["group"], strict=True)) == CLIPS[corpus]
    assert set(found.rows["corpus"]) == {corpus}
    assert [Path(entry["path"]).name for entry in found.skipped] == ["holiday.wav"]


def test_sound_and_pictures_of_one_name_are_one_clip(tmp_path):
    rows = read_corpus(touch(tmp_path, *NAMES["crema_d"])).rows.set_index("clip")
    assert rows.loc["1001_DFA_ANG_XX", "video"].endswith(".flv")
    assert rows.loc["1001_DFA_ANG_XX", "audio"].endswith(".wav")
    assert rows.loc["1091_IEO_HAP_HI", "video"] is None
    assert rows["intensity"].tolist() == ["unspecified", "high"]


def test_savee_names_its_speakers_in_folders_or_files(tmp_path):
    rows = read_corpus(touch(tmp_path, "DC/sa01.wav", "ALL/JE_sa01.wav")).rows
    assert dict(zip(rows["clip"], rows["group"], strict=True)) == {"DC_sa01": "savee-DC", "JE_sa01": "savee-JE"}
    assert set(rows["label"]) == {"sad"}


def test_a_folder_of_anything_else_is_no_corpus(tmp_path):
    assert read_corpus(touch(tmp_path, "happy/one.wav", "sad/two.wav", "sad/03a01Fa.wav")) is None


HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


def meld(root: Path) -> Path:
    touch(root, "train_splits/dia0_utt0.mp4", "train_splits/dia0_utt1.mp4", "dev_splits_complete/dia0_utt0.mp4")
    touch(root, "output_repeated_splits_test/dia0_utt0.mp4")
    row = '{},"So, how are you?",{},{},neutral,0,{},1,1,"00:00:01,000","00:00:02,000"\n'
    train = row.format(1, "Joey", "joy", 0) + row.format(2, "Ross", "anger", 1) + row.format(3, "Ross", "anger", 9)
    (root / "train_sent_emo.csv").write_text(HEADER + train)
    (root / "dev_sent_emo.csv").write_text(HEADER + row.format(1, "Joey", "sadness", 0))
    (root / "test_sent_emo.csv").write_text(HEADER + row.format(1, "Ross", "neutral", 0))
    return root


def test_meld_has_tables_and_splits_of_its_own(tmp_path):
    found = read_corpus(meld(tmp_path))
    assert found.rows[["label", "group", "split"]].to_numpy().tolist() == [
        ["sad", "meld-Joey", "validation"],
        ["neutral", "meld-Ross", "test"],
        ["happy", "meld-Joey", "train"],
        ["angry", "meld-Ross", "train"],
    ]
    assert all(Path(clip).is_file() for clip in found.rows["video"])
    assert "dia0_utt9" in found.skipped[0]["path"]


def test_meld_s_splits_share_their_speakers(tmp_path):
    fields = ["--dataset", str(meld(tmp_path)), "--modalities", "video"]
    with pytest.raises(DataError, match="meld-Joey"):
        read_source(task(*fields))
    assert read_source(task(*fields, "--protocol", "manifest_leaky")).protocol == "manifest_leaky"


def test_meld_with_an_emotion_that_it_does_not_have(tmp_path):
    table = meld(tmp_path) / "dev_sent_emo.csv"
    table.write_text(table.read_text().replace("sadness", "ennui"))
    with pytest.raises(DataError, match="row 1 has the emotion 'ennui'"):
        read_corpus(tmp_path)


def test_iemocap_has_its_labels_in_evaluations(tmp_path):
    clips = ("Ses01F_impro01_F000", "Ses01F_impro01_M001", "Ses01F_impro01_F002")
    touch(tmp_path, *(f"Session1/sentences/wav/Ses01F_impro01/{clip}.wav" for clip in clips))
    file = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    file.parent.mkdir(parents=True)
    lines = [
        f"[6.2901 - 8.2357]\t{clip}\t{code}\t[2.5000, 2.5000, 2.5000]"
        for clip, code in zip(clips, ("neu", "fru", "xxx"), strict=True)
    ]
    file.write_text(
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" + "\n".join(lines) + "\nC-E2:\tNeutral;\t()\n"
    )
    found = read_corpus(tmp_path)
    assert found.rows[["label", "group", "sex"]].to_numpy().tolist() == [
        ["neutral", "iemocap-Ses01F", "female"],
        ["frustrated", "iemocap-Ses01M", "male"],
    ]
    assert "agreed on no class" in found.skipped[0]["reason"]


def task(*fields: str, recipe: str = "ravdess_audio"):
    return parse_task([recipe, *fields])


SPEAKERS = ("03", "08", "09", "10", "11", "12")


@pytest.fixture
def emodb(tmp_path) -> Path:
    return touch(
        tmp_path / "emodb", *(f"{who}a0{n}{code}a.wav" for who in SPEAKERS for n, code in enumerate("FWLN", 1))
    )


def test_a_recipe_for_ravdess_takes_another_corpus(emodb):
    source = read_source(task("--dataset", str(emodb)))
    assert source.labels == ["neutral", "happy", "angry", "bored"]
    assert source.rows.groupby("group")["split"].nunique().eq(1).all()
    assert set(source.rows["split"]) == {"train", "validation", "test"}
    assert source.factors == ("sex",)


def test_a_protocol_of_ravdess_is_refused_by_name(emodb):
    with pytest.raises(RecipeError, match="a folder of other clips"):
        task("--dataset", str(emodb), "--protocol", "luna_5fold")


class TestTogether:
    @pytest.fixture
    def ravdess(self, tmp_path) -> Path:
        return touch(
            tmp_path / "ravdess",
            *(f"Actor_{a:02d}/03-01-0{e}-01-01-01-{a:02d}.wav" for a in range(1, 25) for e in (1, 3, 5)),
        )

    def test_each_keeps_its_own_splits(self, emodb, ravdess):
        source = read_source(task("--dataset", str(ravdess), "--more_datasets", str(emodb)))
        assert source.protocol == "actors_16_4_4 + manifest"
        by_corpus = source.rows.groupby("corpus")["split"].agg(set)
        assert by_corpus["ravdess"] == by_corpus["emodb"] == {"train", "validation", "test"}
        actors = source.rows[(source.rows["corpus"] == "ravdess") & (source.rows["split"] == "train")]["group"]
        assert set(actors) == {f"{number:02d}" for number in range(1, 17)}
        assert source.labels == ["neutral", "happy", "angry", "bored"]
        assert source.factors == ("corpus",)

    def test_two_speakers_are_for_training(self, emodb, tmp_path):
        names = [f"{who}_{word}_angry.wav" for who in ("OAF", "YAF") for word in ("back", "dog")]
        tess = touch(tmp_path / "tess", *names)
        source = read_source(task("--dataset", str(emodb), "--more_datasets", str(tess)))
        assert set(source.rows[source.rows["corpus"] == "tess"]["split"]) == {"train"}
        assert any("2 speakers" in note for note in source.notes)

    def test_one_speaker_of_two_tables_stays_on_one_side(self, emodb, tmp_path):
        table = pd.DataFrame(
            {"audio": ["a.wav"] * 3, "label": ["happy", "angry", "happy"], "group": ["emodb-03", "x", "y"]}
        )
        found = read_source(task("--dataset", str(emodb))).rows
        other = {"train": "test", "test": "train", "validation": "train"}[
            found[found["group"] == "emodb-03"]["split"].iloc[0]
        ]
        table.assign(split=[other, "train", "train"]).to_csv(tmp_path / "more.csv", index=False)
        with pytest.raises(DataError, match="emodb-03"):
            read_source(task("--dataset", str(emodb), "--more_datasets", str(tmp_path / "more.csv")))

    def test_a_common_protocol_is_each_one_s(self, emodb, ravdess):
        fields = ["--protocol", "group_kfold", "--num_folds", "3"]
        source = read_source(task("--dataset", str(ravdess), "--more_datasets", str(emodb), *fields))
        assert source.protocol == "group_kfold, fold 0"
        assert source.rows.groupby("group")["split"].nunique().eq(1).all()


class TestClasses:
    def test_are_renamed_or_left_out(self, emodb):
        source = read_source(task("--dataset", str(emodb), "--label_map", '{"bored": null, "angry": "tense"}'))
        assert source.labels == ["neutral", "happy", "tense"]
        assert set(source.rows["label"]) == set(source.labels)
        assert "bored (6) left out, angry (6) to tense" in source.notes[-1]

    def test_that_no_clip_has(self, emodb):
        with pytest.raises(DataError, match="no clip has the class calm; the classes are angry, bored"):
            read_source(task("--dataset", str(emodb), "--label_map", '{"calm": "neutral"}'))

    def test_a_new_name_is_a_name(self):
        with pytest.raises(RecipeError, match="label_map: angry must become a class name"):
            task("--label_map", '{"angry": 3}')

    def test_that_a_checkpoint_does_not_know(self):
        rows = pd.DataFrame({"label": ["happy", "bored", "sad"]})
        kept, labels, notes = known_rows(rows, ["happy", "sad", "bored"], ["sad", "calm", "happy"])
        assert kept["label"].tolist() == labels == ["happy", "sad"]
        assert "1 clips" in notes[0]
        with pytest.raises(DataError, match="knows none of the classes"):
            known_rows(rows, ["bored"], ["calm"])


def test_check_counts_a_corpus(tmp_path):
    for name in ("03a01Fa", "08a01Wa", "09a01Na"):
        write_clip(tmp_path / f"{name}.wav", audio=tone(0.3, 16000))
    files, unusable = load_task("multimodal_fer").inspect(str(tmp_path))
    assert sorted(files["label"]) == ["angry", "happy", "neutral"]
    assert not unusable


def test_the_real_emodb(real_data):
    rows = read_corpus(real_data / "emodb").rows
    table = pd.read_csv(real_data / "emodb" / "manifest.csv", dtype=str)
    assert len(rows) == len(table) == 408
    expected = {
        Path(file).stem: (label, f"emodb-{who}", sex)
        for file, label, who, sex in zip(*(table[name] for name in ("audio", "label", "group", "sex")), strict=True)
    }
    assert (
        dict(zip(rows["clip"], zip(rows["label"], rows["group"], rows["sex"], strict=True), strict=True)) == expected
    )
