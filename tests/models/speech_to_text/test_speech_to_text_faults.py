"""One table with every data fault that preparation has to name, and with files and names as people have them."""

import json
import struct
import unicodedata
from fractions import Fraction

import av
import numpy as np
import pandas as pd
import pytest
from media import grey_frames, tone, write_clip
from scipy.io import wavfile

from hf_fer.models.speech_to_text.sound_speech_to_text import load_audio
from hf_fer.models.speech_to_text.train.prepare import main

RATE = 16000


def noise(seconds=1.0, rate=RATE, seed=0, level=0.1, channels=1):
    """`float32 (channels, samples)`, so that no two recordings are the same."""
    return (np.random.default_rng(seed).normal(size=(channels, int(seconds * rate))) * level).clip(-1, 1).astype("f4")


def prepare(folder, rows, *options):
    """Exit status, kept rows, findings as {(file, kind): reason}, and what was printed is left to the caller."""
    pd.DataFrame(rows).to_csv(folder / "metadata.csv", index=False)
    status = main([str(folder / "metadata.csv"), "--output_dir", str(folder / "out"), "--overwrite", *options])
    found = {}
    for name in ("dropped.jsonl", "warnings.jsonl"):
        for line in (folder / "out" / name).read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found[entry["path"].rsplit("/")[-1], entry["kind"]] = f"{entry['source']}: {entry['reason']}"
    return status, pd.read_parquet(folder / "out" / "metadata.parquet"), found


def good(folder, count=9):
    """Good recordings of three speakers, one in each split."""
    for number in range(count):
        write_clip(folder / f"good{number}.wav", audio=noise(seed=number))
    return [
        {
            "file_path": f"good{number}.wav",
            "transcript": f"lời nói thứ {number}",
            "duration": "1.0",
            "split": ("train", "validation", "test")[number % 3],
            "speaker_id": ("an", "bình", "chi")[number % 3],
        }
        for number in range(count)
    ]


def test_each_fault_of_one_table_is_named_with_its_row(tmp_path, capsys):
    rows = good(tmp_path)
    write_clip(tmp_path / "telephone.wav", audio=noise(rate=8000, seed=20), rate=8000)
    write_clip(tmp_path / "stereo.wav", audio=noise(seed=21, channels=2))
    write_clip(tmp_path / "declared.wav", audio=noise(2.0, seed=22))
    write_clip(tmp_path / "clipped.wav", audio=noise(seed=23, level=2.0))
    write_clip(tmp_path / "silent.wav", audio=np.zeros((1, RATE), "f4"))
    write_clip(tmp_path / "crowded.wav", audio=noise(0.3, seed=24))
    write_clip(tmp_path / "shared.wav", audio=noise(seed=25))
    write_clip(tmp_path / "copy.flac", audio=noise(seed=1))  # of good1.wav, which is in validation
    write_clip(tmp_path / "marks.wav", audio=noise(seed=26))
    (tmp_path / "broken.wav").write_bytes(b"RIFF no sound")
    planted = [
        ("absent.wav", "một", "1.0", "train", "an", "unusable file"),
        ("broken.wav", "một", "1.0", "train", "an", "unusable file"),
        ("telephone.wav", "một", "1.0", "train", "an", "low sampling rate"),
        ("stereo.wav", "một", "1.0", "train", "an", "several channels"),
        ("declared.wav", "một", "1.0", "train", "an", "declared duration"),
        ("clipped.wav", "một", "1.0", "train", "an", "clipping"),
        ("silent.wav", "một", "1.0", "train", "an", "silence"),
        ("crowded.wav", "một câu mà không ai nói kịp", "0.3", "train", "an", "transcript too long"),
        ("shared.wav", "một", "1.0", "train", "chi", "speaker on both sides"),
        ("copy.flac", "lời nói thứ 1", "1.0", "train", "an", "duplicate"),
        ("marks.wav", unicodedata.normalize("NFD", "tiếng Việt"), "1.0", "train", "an", None),
    ]
    names = ("file_path", "transcript", "duration", "split", "speaker_id")
    rows += [dict(zip(names, row, strict=False)) for row in planted]
    status, kept, found = prepare(tmp_path, rows)
    assert status == 0
    for number, (file, *_, kind) in enumerate(planted, 10):
        if kind is not None:
            assert (file, kind) in found, file
            assert found[file, kind].startswith(f"metadata.csv row {number}: ")
    assert len(found) == len(planted) - 1
    kept = kept.set_index(kept["file_path"].map(lambda path: path.rsplit("/")[-1]))
    assert kept["transcript"]["marks.wav"] == unicodedata.normalize("NFC", "tiếng việt")
    assert set(kept.index) >= {"telephone.wav", "stereo.wav", "declared.wav", "clipped.wav", "marks.wav"}
    assert len(kept) == 9 + 5
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for words in ("Unicode form NFC", "speaker on both sides", "metadata.csv row 12"):
        assert words in page
    printed = capsys.readouterr().out
    assert all(kind is None or kind in printed for *_, kind in planted)


def with_cover(path):
    """An m4a with a picture as its cover."""
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(grey_frames(1)[0], format="rgb24").reformat(format="yuvj420p")
        picture.pts, picture.time_base = 0, Fraction(1, 1)
        container.mux(cover.encode(picture))
        container.mux(cover.encode(None))
        mux_sound(container, sound, tone(1.0, RATE))
    return path


def mux_sound(container, stream, audio, start=0):
    pcm = (audio * 32767).astype(np.int16).T.reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def with_late_sound(path, late=1.0):
    """Matroska whose pictures begin at 0 and whose sound of one second begins later."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for number, picture in enumerate(grey_frames(50)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        mux_sound(container, sound, tone(1.0, RATE), start=int(late * RATE))
    return path


def with_changing_rate(path):
    """AAC frames of 16 kHz and, after them, of 24 kHz, as a radio stream that changes on the way."""
    parts = []
    for rate in (16000, 24000):
        part = path.with_name(f"{rate}.aac")
        with av.open(str(part), "w", format="adts") as container:
            stream = container.add_stream("aac", rate=rate, layout="mono")
            frame = av.AudioFrame.from_ndarray(
                (tone(1.0, rate) * 32767).astype(np.int16).reshape(1, -1), format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = rate, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    return path


def with_trimmed_edit_list(path):
    """An m4a of 2 s, of whose edit list the first second is not shown."""
    write_clip(path, audio=np.concatenate([tone(1.0, RATE, frequency=300), tone(1.0, RATE, frequency=900)], axis=1))
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 12
    _, begin = struct.unpack(">Ii", data[entry : entry + 8])
    timescale = struct.unpack(">I", data[data.index(b"mvhd") + 16 : data.index(b"mvhd") + 20])[0]
    data[entry : entry + 8] = struct.pack(">Ii", timescale, begin + RATE)
    path.write_bytes(data)
    return path


def test_files_as_people_have_them(tmp_path):
    """Of the kinds that made other software fail: endings, channels, covers, late, changing and trimmed sound."""
    rows = good(tmp_path)
    write_clip(tmp_path / "loud.wav", audio=noise(seed=30)).rename(tmp_path / "00001.WAV")
    wavfile.write(tmp_path / "eight.wav", 44100, (noise(rate=44100, seed=31, channels=8).T * 32767).astype(np.int16))
    with_cover(tmp_path / "cover.m4a")
    with_late_sound(tmp_path / "late.mkv")
    with_changing_rate(tmp_path / "radio.aac")
    with_trimmed_edit_list(tmp_path / "trimmed.m4a")
    (tmp_path / "._good0.wav").write_bytes(b"\\x00\\x05\\x16\\x07 metadata of a Mac")
    seconds = {"00001.WAV": 1, "eight.wav": 1, "cover.m4a": 1, "late.mkv": 2, "trimmed.m4a": 1}
    rows += [
        {"file_path": name, "transcript": "không không bảy", "duration": "", "split": " Train", "speaker_id": "007"}
        for name in [*seconds, "radio.aac", "._good0.wav"]
    ]
    status, kept, found = prepare(tmp_path, rows)
    assert status == 0
    assert ("._good0.wav", "unusable file") in found
    assert "rate or channels change within the file" in found["radio.aac", "unusable file"]
    kept = kept.set_index(kept["file_path"].map(lambda path: path.rsplit("/")[-1]))
    for name, wanted in seconds.items():
        assert kept["duration"][name] == pytest.approx(wanted, abs=0.1), name
        read = load_audio(tmp_path / name, RATE)  # what training hears
        assert len(read) / RATE == pytest.approx(kept["duration"][name], abs=0.1), name
        assert kept["speaker_id"][name] == "007"
    assert found["eight.wav", "several channels"].endswith("8 channels, which are averaged")
    late = load_audio(tmp_path / "late.mkv", RATE)
    assert np.abs(late[: int(0.9 * RATE)]).max() < 0.01 < np.abs(late[int(1.2 * RATE) :]).max()


def test_names_that_differ_by_blanks_case_or_unicode_form(tmp_path, capsys):
    rows = good(tmp_path)
    for number, speaker in enumerate(("chi ", unicodedata.normalize("NFD", "bình"), "Chi")):
        write_clip(tmp_path / f"name{number}.wav", audio=noise(seed=40 + number))
        name = f"name{number}.wav"
        rows.append({"file_path": name, "transcript": "một", "duration": "1", "split": "TRAIN", "speaker_id": speaker})
    _, kept, found = prepare(tmp_path, rows)
    assert ("name0.wav", "speaker on both sides") in found
    assert ("name1.wav", "speaker on both sides") in found
    assert "Chi" in set(kept["speaker_id"])
    assert "'Chi'" in capsys.readouterr().out  # told of as like 'chi', which may be the same person


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_path,transcript\ngood0.wav,một\ngood1.wav,hai, ba\n", "row 2"),
        ("file_path,transcript\ngood0.wav\n", "row 1"),
    ],
)
def test_a_comma_too_many_or_too_few_names_the_row(tmp_path, capsys, text, said):
    good(tmp_path, 2)
    (tmp_path / "metadata.csv").write_text(text, encoding="utf-8")
    assert main([str(tmp_path / "metadata.csv"), "--output_dir", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_values_that_look_like_numbers_or_nothing_stay_as_written(tmp_path):
    rows = good(tmp_path)
    for number, speaker in enumerate(("00", "NA", "None")):
        write_clip(tmp_path / f"000{number}.wav", audio=noise(seed=50 + number))
        rows.append({"file_path": f"000{number}.wav", "transcript": "NA", "split": "train", "speaker_id": speaker})
    _, kept, _ = prepare(tmp_path, rows)
    assert {"00", "NA", "None"} < set(kept["speaker_id"])
    assert (kept["written_transcript"] == "NA").sum() == 3
