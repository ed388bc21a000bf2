"""Layouts of corpora, on small ones that the tests write."""

import json

import pytest

from hf_fer.data.loading import DataError
from hf_fer.models.speech_to_text.train.layouts import read_recordings


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def make_table(folder):
    write(folder / "a.wav", "")
    return write(folder / "m.csv", "Audio;Sentence;Speaker\na.WAV;xin chào;s1\n")


def make_common_voice(folder):
    write(folder / "clips" / "a.wav", "")
    write(folder / "dev.tsv", "client_id\tpath\tsentence\ns1\ta.wav\txin chào\n")
    return folder


def make_common_voice_table(folder):
    return make_common_voice(folder) / "dev.tsv"


def make_vivos(folder):
    write(folder / "train" / "prompts.txt", "s1_R001 xin chào\n\n")
    write(folder / "train" / "waves" / "s1" / "s1_R001.wav", "")
    return folder


def make_kaldi(folder):
    write(folder / "a.wav", "")
    write(folder / "wav.scp", "u1 a.wav\n")
    write(folder / "text", "u1 xin chào\n")
    write(folder / "utt2spk", "u1 s1\n")
    return folder


def make_nemo(folder):
    write(folder / "a.wav", "")
    line = {"audio_filepath": "a.wav", "text": "xin chào", "duration": 1.5, "speaker": "s1"}
    return write(folder / "manifest.json", json.dumps(line) + "\n")


def make_ljspeech(folder):
    write(folder / "wavs" / "a.wav", "")
    write(folder / "metadata.csv", "a|Xin chào|xin chào\n")
    return folder


MAKERS = {
    "table": make_table,
    "common_voice": make_common_voice,
    "common_voice_table": make_common_voice_table,
    "vivos": make_vivos,
    "kaldi": make_kaldi,
    "nemo": make_nemo,
    "ljspeech": make_ljspeech,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_each_layout_is_recognised_and_read(tmp_path, kind):
    rows, layout = read_recordings(MAKERS[kind](tmp_path))
    assert layout == kind.removesuffix("_table")
    assert len(rows) == 1
    row = rows.iloc[0]
    assert row["transcript"] == "xin chào"
    assert row["file_path"].endswith(".wav")
    assert list(tmp_path.rglob(row["file_path"].rsplit("/")[-1]))
    assert row["speaker_id"] == (None if kind == "ljspeech" else "s1")
    expected = {"vivos": "train", "common_voice": "validation"}.get(kind)
    assert row["split"] == expected
    assert row["source"]
    if kind == "ljspeech":
        assert read_recordings(tmp_path / "metadata.csv")[1] == "ljspeech"


def test_what_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_recordings(tmp_path / "absent")
    with pytest.raises(DataError, match="known layout"):
        read_recordings(tmp_path)
    with pytest.raises(DataError, match="neither a table"):
        read_recordings(write(tmp_path / "a.docx", ""))
    with pytest.raises(DataError, match="has no transcript column"):
        read_recordings(write(tmp_path / "b.csv", "file_path\na.wav\n"))


def test_commands_and_repeated_names_of_kaldi_are_refused(tmp_path):
    make_kaldi(tmp_path)
    write(tmp_path / "wav.scp", "u1 sox a.wav -t wav - |\n")
    with pytest.raises(DataError, match=r"wav\.scp line 1: has a command"):
        read_recordings(tmp_path)
    write(tmp_path / "wav.scp", "u1 a.wav\nu1 b.wav\n")
    with pytest.raises(DataError, match="line 2: 'u1' occurs twice"):
        read_recordings(tmp_path)


def test_a_kaldi_utterance_without_text_has_no_transcript(tmp_path):
    make_kaldi(tmp_path)
    write(tmp_path / "wav.scp", "u1 a.wav\nu2 a.wav\n")
    assert read_recordings(tmp_path)[0]["transcript"].tolist() == ["xin chào", None]
