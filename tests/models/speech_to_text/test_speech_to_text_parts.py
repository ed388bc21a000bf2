"""Parts of speech_to_text: vocabulary, best path, tones, recordings and what is said of a stuck run."""

import inspect
import logging
import unicodedata

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from scipy.io import wavfile
from transformers import AutoTokenizer, ParakeetFeatureExtractor, ParakeetProcessor, TrainerControl, TrainerState

from hf_fer.data.augment import seeded
from hf_fer.data.loading import DataError
from hf_fer.data.skipped import SkippedFile
from hf_fer.models.multimodal_fer import decoding_multimodal_fer, limits_multimodal_fer, sound_multimodal_fer
from hf_fer.models.speech_to_text import sound_speech_to_text
from hf_fer.models.speech_to_text.alignment_speech_to_text import best_tokens, text_of, timed, words_of
from hf_fer.models.speech_to_text.train.blanks import BlankWatch
from hf_fer.models.speech_to_text.train.demo import make_demo, spoken
from hf_fer.models.speech_to_text.train.joining import Companions
from hf_fer.models.speech_to_text.train.preprocessing import SoundSettings
from hf_fer.models.speech_to_text.train.recordings import (
    RecordingCollator,
    RecordingTransform,
    measure,
    read_recordings,
    written,
)
from hf_fer.models.speech_to_text.train.tones import base_letters, is_vietnamese, tones
from hf_fer.models.speech_to_text.train.vocabulary import build_tokenizer, encode, frames_needed, outside_vocabulary

TEXTS = ["đường phố việt nam", "xin chào các bạn", "hệ thống nhận dạng tiếng nói"]


def read_back(tokenizer, text: str) -> str:
    return tokenizer.decode(encode(tokenizer, text), group_tokens=False).strip()


class TestVocabulary:
    @pytest.mark.parametrize("units", ["nfc", "nfd", "bpe"])
    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_text_comes_back_in_nfc_from_a_saved_tokenizer(self, units, form, tmp_path):
        build_tokenizer(TEXTS, units, 60).save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        for text in TEXTS:
            assert read_back(tokenizer, unicodedata.normalize(form, text)) == text

    def test_letters_and_marks_need_fewer_units(self):
        """A letter with two marks that training has not is written all the same."""
        tokenizer = build_tokenizer(["ế ờ a", "ằ ẹ"], "nfd", 60)
        assert not outside_vocabulary(["ệ", "ế"], tokenizer)
        assert read_back(tokenizer, "ệ") == "ệ"

    def test_marks_in_another_order_are_composed(self):
        tokenizer = build_tokenizer(["ệ"], "nfd", 60)
        ids = tokenizer.convert_tokens_to_ids(["e", "\u0302", "\u0323"])
        assert tokenizer.decode(ids, group_tokens=False) == "ệ"

    def test_blank_and_repeats_collapse(self):
        tokenizer = build_tokenizer(["hello"], "nfc", 60)
        ids = tokenizer.convert_tokens_to_ids(["h", "h", "e", "<pad>", "l", "l", "<pad>", "l", "o", "<pad>"])
        assert text_of(ids, tokenizer) == "hello"

    def test_characters_that_it_lacks_are_counted_by_transcript(self):
        tokenizer = build_tokenizer(["abc"], "nfc", 60)
        assert outside_vocabulary(["a z z", "zb", "q", "c"], tokenizer) == {"z": 2, "q": 1}

    def test_equal_neighbours_need_a_frame_between(self):
        assert frames_needed([1, 2, 2, 2, 3]) == 7


class TestBestPath:
    def test_words_have_their_frames_and_scores(self):
        tokenizer = build_tokenizer(["ab cd"], "nfc", 60)
        pieces = ["<pad>", "a", "a", "b", "▁", "<pad>", "c", "<pad>", "d", "<pad>"]
        ids = tokenizer.convert_tokens_to_ids(pieces)
        probabilities = np.full((len(ids), len(tokenizer)), 1e-6)
        probabilities[np.arange(len(ids)), ids] = 0.5
        words = words_of(best_tokens(np.log(probabilities), tokenizer.pad_token_id), tokenizer)
        assert [(word.text, word.start, word.stop) for word in words] == [("ab", 1, 4), ("cd", 6, 9)]
        first, _ = timed(words, 0.04)
        assert (first["start"], first["end"]) == (0.04, 0.16)
        assert first["confidence"] == pytest.approx(0.5)

    @pytest.mark.parametrize("units", ["nfc", "nfd", "bpe"])
    def test_words_are_those_of_the_text(self, units):
        tokenizer = build_tokenizer(TEXTS, units, 60)
        for text in TEXTS:
            ids = [part for token in encode(tokenizer, text) for part in (token, tokenizer.pad_token_id)]
            log_probs = np.full((len(ids), len(tokenizer)), -20.0)
            log_probs[np.arange(len(ids)), ids] = 0.0
            words = words_of(best_tokens(log_probs, tokenizer.pad_token_id), tokenizer)
            assert " ".join(word.text for word in words) == text_of(ids, tokenizer) == text


class TestTones:
    def test_tones_and_base_letters(self):
        assert tones("đường phố việt nam hỏi ngã") == "huyền sắc nặng ngang hỏi ngã"
        assert base_letters("đường phố Việt Nam") == "duong pho Viet Nam"

    def test_other_languages_have_none(self):
        assert is_vietnamese(TEXTS)
        assert not is_vietnamese(["zero one", "déjà vu, ça va", "mañana", "são paulo"])


class TestTranscripts:
    def test_plain_deletes_no_word(self):
        assert written("  Xin chào,  CÁC bạn!  Don't 3.5 - (A-B) ", "plain") == "xin chào các bạn don't 3.5 a-b"

    def test_as_is_is_nfc(self):
        assert written(unicodedata.normalize("NFD", "Việt."), "as_is") == "Việt."


def write_wav(path, samples, rate=16000):
    wavfile.write(path, rate, (np.asarray(samples) * 32767).astype(np.int16))
    return str(path)


@pytest.fixture
def tone(tmp_path):
    return write_wav(tmp_path / "tone.wav", 0.5 * np.sin(np.arange(16000) / 8))


class TestRecordings:
    def test_usual_columns_and_relative_files(self, tmp_path, tone):
        (tmp_path / "metadata.csv").write_text("file_path,transcript,speaker_id,split\ntone.wav,một hai,s1,dev\n")
        rows = read_recordings(tmp_path / "metadata.csv")
        assert rows.to_dict("records") == [
            {"audio": tone, "transcript": "một hai", "group": "s1", "split": "validation"}
        ]

    def test_a_missing_column_is_named(self, tmp_path):
        (tmp_path / "a.csv").write_text("file_path,transcrip\ntone.wav,x\n")
        with pytest.raises(DataError, match="transcript"):
            read_recordings(tmp_path / "a.csv")

    def test_what_cannot_be_used_has_a_reason(self, tmp_path, tone):
        silent = write_wav(tmp_path / "silent.wav", np.zeros(16000))
        short = write_wav(tmp_path / "short.wav", 0.5 * np.ones(100))
        (tmp_path / "text.wav").write_text("no sound")
        found = measure(
            [tone, silent, short, str(tmp_path / "text.wav"), str(tmp_path / "none.wav")],
            SoundSettings(16000, 30.0),
            2,
        )
        assert found[tone] == 1.0
        assert "silent" in found[silent]
        assert "0.006 s" in found[short]
        assert "not readable" in found[str(tmp_path / "text.wav")]
        assert found[str(tmp_path / "none.wav")] == "file not found"

    def test_longer_ones_than_allowed_are_not_read(self, tone):
        assert "over max_seconds = 0.5" in measure([tone], SoundSettings(16000, 0.5), 1)[tone]

    def test_a_batch_is_padded_and_masked(self, tmp_path, tone):
        half = write_wav(tmp_path / "half.wav", 0.5 * np.sin(np.arange(8000) / 8))
        processor = ParakeetProcessor(ParakeetFeatureExtractor(), build_tokenizer(["ab"], "nfc", 60))
        transform = RecordingTransform(processor, SkippedFile(tmp_path / "skipped.jsonl"), 30.0)
        rows = {"audio": [tone, half], "transcript": ["ab", "b"], "index": [0, 1]}
        made = transform(rows)
        examples = [dict(zip(made, values, strict=True)) for values in zip(*made.values(), strict=True)]
        batch = RecordingCollator("input_features", masked=True)(examples)
        assert batch["input_features"].shape == (2, 101, 80)
        assert batch["attention_mask"].sum(dim=1).tolist() == [100, 50]
        assert batch["labels"].tolist()[1][1:] == [-100]

    def test_a_file_that_went_bad_is_listed(self, tmp_path):
        processor = ParakeetProcessor(ParakeetFeatureExtractor(), build_tokenizer(["ab"], "nfc", 60))
        transform = RecordingTransform(processor, SkippedFile(tmp_path / "skipped.jsonl"), 30.0)
        made = transform({"audio": [str(tmp_path / "gone.wav")], "transcript": ["ab"], "index": [0]})
        assert made["labels"] == [[]]
        assert torch.isfinite(made["inputs"][0]).all()
        assert "file not found" in (tmp_path / "skipped.jsonl").read_text()

    def test_recordings_of_one_speaker_are_joined(self, tmp_path):
        """A recording's samples are all of one value, which tells the speaker."""
        files = [write_wav(tmp_path / f"{i}.wav", np.full(8000, (0.2, 0.6)[i % 2])) for i in range(6)]
        said = [("một", "hai")[i % 2] for i in range(6)]
        rows = Dataset.from_dict({"audio": files, "transcript": said, "seconds": [0.5] * 6, "group": list("ab") * 3})
        processor = ParakeetProcessor(ParakeetFeatureExtractor(), build_tokenizer(said, "nfc", 60))
        companions = Companions(rows, 2, 30.0)
        transform = RecordingTransform(processor, SkippedFile(tmp_path / "skipped.jsonl"), 30.0, companions=companions)
        heard = set()
        for index in range(20):
            with seeded(index):
                samples, transcript = transform.said(rows[1])
            count = transcript.count("hai")
            assert transcript == " ".join(["hai"] * count)
            assert (np.abs(samples - 0.6) < 0.01).sum() == count * 8000
            assert len(samples) <= count * 8000 + (count - 1) * 3200
            heard.add(count)
        assert heard == {1, 2, 3}

    def test_joined_recordings_are_no_longer_than_allowed(self):
        columns = {"audio": ["a", "b"], "transcript": ["a", "b"], "seconds": [2.0, 2.0]}
        companions = Companions(Dataset.from_dict(columns), 5, 6.5)
        for index in range(20):
            with seeded(index):
                assert len(companions.draw({"seconds": 2.0})) <= 2


COPIES = {
    decoding_multimodal_fer: (
        *("open_media", "sound_track", "picture_track", "clock_zero"),
        *("load_audio", "_decode_sound", "add_sound"),
    ),
    sound_multimodal_fer: ("SoundOnClock",),
    limits_multimodal_fer: ("UnusableMediaError", "Reach"),
}


@pytest.mark.parametrize("module", COPIES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_copies_are_those_of_the_first_system(module):
    for name in COPIES[module]:
        copy, original = getattr(sound_speech_to_text, name), getattr(module, name)
        assert inspect.getsource(copy) == inspect.getsource(original)


def test_the_demo_is_the_same_each_time_and_its_voices_are_apart(tmp_path):
    rows = pd.read_csv(make_demo(tmp_path))
    assert rows.groupby("speaker_id")["split"].nunique().max() == 1
    assert set(rows["split"]) == {"train", "val", "test"}
    sounds = [spoken("ba bà", 1.0, 1.0, np.random.default_rng(0)) for _ in range(2)]
    assert np.array_equal(*sounds)


@pytest.mark.parametrize(
    ("share", "wer", "said"), [(0.999, 1.0, True), (0.979, 0.992, True), (0.8, 1.0, False), (0.999, 0.1, False)]
)
def test_a_run_that_is_stuck_on_blanks_is_named(caplog, share, wer, said):
    state = TrainerState(global_step=50, is_world_process_zero=True)
    watch = BlankWatch(steps=40)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            watch.on_evaluate(None, state, TrainerControl(), {"eval_blank_share": share, "eval_wer": wer})
    assert ("STUCK ON BLANKS" in caplog.text) == said
    assert caplog.text.count("STUCK") == said


def test_blanks_alone_are_no_fault_at_first(caplog):
    state = TrainerState(global_step=39, is_world_process_zero=True)
    BlankWatch(steps=40).on_evaluate(None, state, TrainerControl(), {"eval_blank_share": 1.0, "eval_wer": 1.0})
    assert not caplog.text
