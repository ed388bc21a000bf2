"""Preparation of recordings: every planted fault is named, no text is lost, and no speaker is on two sides."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from media import truncate, write_clip

from hf_fer.data.tables import read_table
from hf_fer.models.speech_to_text.train.prepare import main


def noise(seconds=1.0, rate=16000, seed=0, level=0.1, channels=1):
    """`float32 (channels, samples)` of noise, so that no two recordings are the same."""
    return (np.random.default_rng(seed).normal(size=(channels, int(seconds * rate))) * level).clip(-1, 1).astype("f4")


@pytest.fixture
def corpus(tmp_path):
    """Twelve good recordings of six speakers, and a table of them, to which tests add rows."""
    rows = []
    for number in range(12):
        write_clip(tmp_path / f"clip{number}.wav", audio=noise(seed=number))
        rows.append(
            {"file_path": f"clip{number}.wav", "transcript": f"câu số {number}", "speaker_id": f"spk{number % 6}"}
        )
    return tmp_path, rows


def run(folder, rows, *options, name="metadata.csv"):
    """Prepare a table; returns the exit status, the rows that stayed, and what was dropped and warned of."""
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    status = main([str(folder / name), "--output_dir", str(out), *options])

    def lines(file):
        path = out / file
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []

    kept = pd.read_parquet(out / "metadata.parquet") if (out / "metadata.parquet").is_file() else None
    return status, kept, lines("dropped.jsonl"), lines("warnings.jsonl")


def test_good_recordings_stay_and_are_split_by_speaker(corpus):
    folder, rows = corpus
    status, kept, dropped, _ = run(folder, rows, "--validation_fraction", "0.2", "--test_fraction", "0.2")
    assert (status, dropped) == (0, [])
    assert list(kept)[:5] == ["file_path", "transcript", "duration", "split", "speaker_id"]
    assert set(kept["split"]) == {"train", "validation", "test"}
    assert (kept.groupby("speaker_id")["split"].nunique() == 1).all()
    assert kept["duration"].tolist() == pytest.approx([1.0] * 12)
    assert kept["transcript"].iloc[11] == "câu số mười một"
    assert kept["written_transcript"].iloc[11] == "câu số 11"
    assert len(read_table(folder / "out" / "metadata.parquet")) == 12
    page = (folder / "out" / "report.html").read_text(encoding="utf-8")
    for words in ("data:image/png", "hours", "0 → không", "spk3", "What was left out"):
        assert words in page


def test_the_same_call_writes_the_same_splits_and_new_rows_move_few(corpus):
    folder, rows = corpus
    first = run(folder, rows)[1]
    assert (
        run(folder, rows[::-1])[1].set_index("file_path")["split"].to_dict()
        == first.set_index("file_path")["split"].to_dict()
    )


def test_every_planted_fault_is_named(corpus):
    folder, rows = corpus
    write_clip(folder / "silent.wav", audio=np.zeros((1, 16000), "f4"))
    write_clip(folder / "short.wav", audio=noise(0.05, seed=20))
    write_clip(folder / "fast.wav", audio=noise(0.4, seed=21))
    write_clip(folder / "loud.wav", audio=noise(seed=22, level=3.0))
    write_clip(folder / "telephone.wav", audio=noise(rate=8000, seed=23), rate=8000)
    write_clip(folder / "stereo.wav", audio=noise(seed=24, channels=2))
    write_clip(folder / "copy.flac", audio=noise(seed=0))
    write_clip(folder / "other_words.wav", audio=noise(seed=1))
    truncate(write_clip(folder / "cut.flac", audio=noise(seed=25)), 0.02)
    (folder / "text.wav").write_text("this is no sound")
    (folder / "empty.wav").write_bytes(b"")
    planted = {
        "silent.wav": ("một hai", "silence"),
        "short.wav": ("a", "duration"),
        "fast.wav": ("một câu rất dài mà không ai nói kịp", "transcript too long"),
        "copy.flac": ("câu số 0", "duplicate"),
        "other_words.wav": ("khác hẳn", "same sound, other words"),
        "cut.flac": ("một hai", "unusable file"),
        "text.wav": ("một hai", "unusable file"),
        "empty.wav": ("một hai", "unusable file"),
        "absent.wav": ("một hai", "unusable file"),
        "clip2.wav": ("câu số 2", "same file twice"),
        "clip3.wav ": ("", "empty transcript"),
        "telephone.wav": ("một hai", "low sampling rate"),
        "loud.wav": ("một hai", "clipping"),
        "stereo.wav": ("một hai", "several channels"),
    }
    added = [{"file_path": name, "transcript": text, "speaker_id": "spk0"} for name, (text, _) in planted.items()]
    status, kept, dropped, warned = run(folder, [*rows, *added])
    assert status == 0
    found = {(entry["path"].rsplit("/")[-1], entry["kind"]) for entry in [*dropped, *warned]}
    for name, (_, kind) in planted.items():
        assert (name.strip(), kind) in found, name
    assert all(entry["source"].startswith("metadata.csv row ") and entry["reason"] for entry in [*dropped, *warned])
    assert len(kept) == 14  # clip1 says other words than its copy; three odd ones stay
    assert next(entry for entry in dropped if entry["path"].endswith("text.wav"))["source"] == "metadata.csv row 19"


def test_declared_durations_are_compared(corpus):
    folder, rows = corpus
    rows = [{**row, "duration": 1.0} for row in rows]
    rows[4]["duration"], rows[5]["duration"] = 9.0, "long"
    _, kept, _, warned = run(folder, rows)
    assert [entry["kind"] for entry in warned] == ["declared duration"] * 2
    assert kept["duration"].max() == pytest.approx(1.0)


def test_given_splits_are_kept_without_shared_speakers_copies_and_transcripts(corpus):
    folder, rows = corpus
    rows = [{**row, "split": "dev" if row["speaker_id"] in ("spk4", "spk5") else "train"} for row in rows]
    rows[0]["speaker_id"] = "spk4 "
    rows[1]["transcript"] = rows[4]["transcript"]
    shutil.copyfile(folder / "clip5.wav", folder / "clip2.wav")
    rows[2]["transcript"] = rows[5]["transcript"]
    _, kept, dropped, _ = run(folder, rows, "--disjoint_transcripts")
    kinds = {entry["source"]: entry["kind"] for entry in dropped}
    assert kinds == {
        "metadata.csv row 1": "speaker on both sides",
        "metadata.csv row 2": "transcript on both sides",
        "metadata.csv row 3": "duplicate",
    }
    assert set(kept["split"]) == {"train", "validation"}
    assert len(run(folder, rows, "--splits", "new")[1]) == 11


def test_one_spelling_of_typed_transcripts(corpus):
    folder, rows = corpus
    rows[0]["transcript"], rows[1]["transcript"] = "cuxng leen tieesng", "HOAF bifnh, 5%"
    _, kept, _, _ = run(folder, rows, "--typing", "telex", "--tone_placement", "old")
    assert kept["transcript"].iloc[0] == "cũng lên tiếng"
    assert kept["transcript"].iloc[1] == "hòa bình năm phần trăm"


def test_data_without_speakers_is_said_to_have_none(corpus, capsys):
    folder, rows = corpus
    rows = [{key: value for key, value in row.items() if key != "speaker_id"} for row in rows]
    assert run(folder, rows)[0] == 0
    assert "names no speakers" in capsys.readouterr().out


def test_characters_that_training_lacks_are_named(corpus, capsys):
    folder, rows = corpus
    rows = [{**row, "split": "validation" if row["speaker_id"] == "spk5" else "train"} for row in rows]
    rows[5]["transcript"] = "ngoằn ngoèo ß"
    run(folder, rows)
    assert "'ß'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (("--validation_fraction", "0.9", "--test_fraction", "0.2"), {}, "must leave something to train on"),
        (("--language", "xx"), {}, "language must be one of"),
        ((), {"split": "holdout"}, "row 1: split 'holdout' is not known"),
        ((), {"file_path": None}, "needs"),
    ],
)
def test_what_cannot_be_prepared_is_refused_in_one_line(corpus, capsys, options, change, message):
    folder, rows = corpus
    if message == "needs":
        rows = [{"path_of_it": row["file_path"], "transcript": row["transcript"]} for row in rows]
        message = "has no file column"
    rows[0] = {**rows[0], **change} if "file_path" in rows[0] else rows[0]
    assert run(folder, rows, *options)[0] == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_earlier_result_is_not_overwritten_unasked(corpus, capsys):
    folder, rows = corpus
    run(folder, rows)
    call = [str(folder / "metadata.csv"), "--output_dir", str(folder / "out")]
    assert main(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*call, "--overwrite"]) == 0


def test_nothing_usable_ends_with_the_reasons_written(corpus, capsys):
    folder, rows = corpus
    status, kept, dropped, _ = run(folder, [{**row, "file_path": "absent.wav"} for row in rows[:1]])
    assert status == 2
    assert kept is None
    assert dropped[0]["reason"] == "file not found"
    assert "no recording can be used (unusable file)" in capsys.readouterr().err
