"""Our pipeline: long recordings, streams, the beam search, times of characters, and memory."""

import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from models.speech_to_text.tone_recogniser import RATE, speech, tone_pipeline
from scipy.io import wavfile

from hf_fer.models.multimodal_fer import decoding_multimodal_fer
from hf_fer.models.speech_to_text import sound_speech_to_text
from hf_fer.models.speech_to_text.alignment_speech_to_text import Token, best_tokens, characters_of, words_of
from hf_fer.models.speech_to_text.recognition_speech_to_text import Search, check_settings
from hf_fer.models.speech_to_text.sound_speech_to_text import (
    MediaLimits,
    UnusableMediaError,
    load_audio,
    resampled,
    sound_blocks,
)
from hf_fer.models.speech_to_text.train.ngram import build_model, write_arpa
from hf_fer.models.speech_to_text.train.vocabulary import build_tokenizer, encode


@pytest.fixture(scope="module")
def recognise():
    return tone_pipeline()


@pytest.fixture(scope="module")
def minute():
    return speech(60)


def write_wav(path, samples, rate=RATE):
    wavfile.write(path, rate, (samples * 32767).astype(np.int16))
    return str(path)


def said_by(tokenizer, text, sharpness=6.0):
    """Log-probabilities that say a text, each token for two frames with a blank between."""
    path = [index for token in encode(tokenizer, text) for index in (token, token, tokenizer.pad_token_id)]
    logits = np.zeros((len(path), len(tokenizer)))
    logits[np.arange(len(path)), path] = sharpness
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("word_temperature", 0, "word_temperature must be a positive number, got 0"),
        ("abstention_threshold", "0.5", "abstention_threshold must be a confidence"),
        ("inputs_to_logits_ratio", 0, "inputs_to_logits_ratio must be a number of samples, got 0"),
        ("pad_token_id", 99, "the blank, must be in the vocabulary"),
    ],
)
def test_settings_that_would_give_wrong_words_are_refused(recognise, name, value, message):
    config = SimpleNamespace(**{**recognise.model.config.to_dict(), name: value})
    with pytest.raises(ValueError, match=message):
        check_settings(SimpleNamespace(config=config))


def test_arrays_of_every_shape_and_those_that_cannot_be_heard(recognise):
    samples, said = speech(2)
    for given in (samples, np.stack([samples, samples]), np.stack([samples, samples], axis=1)):
        assert recognise(given)["text"] == said
    bad = {
        "peak of 32": (samples / np.abs(samples).max() * 32, RATE),
        "peak of nan": (np.where(np.arange(len(samples)) == 5, np.nan, samples), RATE),
        "positive whole number of Hz": (samples, 0),
        "got '16k'": (samples, "16k"),
    }
    for message, (array, rate) in bad.items():
        with pytest.raises(ValueError, match=message):
            recognise({"array": array, "sampling_rate": rate})


@pytest.mark.parametrize("module", [sound_speech_to_text, decoding_multimodal_fer])
def test_a_name_that_is_too_long_is_a_file_that_is_not_there(module):
    with pytest.raises(module.UnusableMediaError, match="file not found"):
        module.load_audio("x" * 300 + ".wav", RATE)


class TestLongRecordings:
    @pytest.mark.parametrize("chunk_seconds", [6, 13, 30])
    def test_chunks_say_what_the_whole_says(self, recognise, minute, chunk_seconds):
        samples, said = minute
        whole = recognise(samples, chunk_seconds=0)
        assert whole["text"] == said
        found = recognise(samples, chunk_seconds=chunk_seconds)
        pairs = zip(found["words"], whole["words"], strict=True)
        wrong = sum(ours["word"] != theirs["word"] for ours, theirs in pairs)
        assert wrong <= 0.01 * len(whole["words"])
        moved = [abs(a["start"] - b["start"]) for a, b in zip(found["words"], whole["words"], strict=True)]
        assert max(moved) <= 0.08

    def test_a_short_recording_is_decoded_as_a_whole(self, recognise, minute):
        samples = minute[0][: 20 * RATE]
        assert recognise(samples) == recognise(samples, chunk_seconds=0)

    def test_files_bytes_arrays_and_lists_agree(self, recognise, minute, tmp_path):
        path = write_wav(tmp_path / "a.wav", minute[0][: 9 * RATE])
        samples = load_audio(path, RATE)
        answer = recognise(path, chunk_seconds=4)
        inputs = [Path(path), Path(path).read_bytes(), samples, {"raw": samples, "sampling_rate": RATE}]
        assert recognise(inputs, chunk_seconds=4) == [answer] * 4
        assert recognise([path, samples], chunk_seconds=4, batch_size=2) == [answer] * 2
        assert list(recognise((part for part in [path, path]), chunk_seconds=4)) == [answer] * 2

    def test_a_length_that_was_given_is_a_limit(self, recognise, minute, tmp_path):
        path = write_wav(tmp_path / "a.wav", minute[0][: 9 * RATE])
        with pytest.raises(UnusableMediaError, match="over max_seconds = 5"):
            recognise(path, max_seconds=5)

    def test_memory_does_not_grow_with_length(self, recognise, tmp_path):
        part, words, peaks = speech(20)[0], [], []
        for times in (1, 8):
            path = write_wav(tmp_path / f"{times}.wav", np.tile(part, times))
            tracemalloc.start()
            words.append(len(recognise(path, chunk_seconds=6)["words"]))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert words[1] == pytest.approx(8 * words[0], rel=0.01)
        assert peaks[1] - peaks[0] < 1e6  # bytes; the samples alone would be 9e6 more


class TestStream:
    @pytest.mark.parametrize("size", [700, 16000, 10**7])
    def test_the_last_answer_is_that_of_the_whole_and_none_is_taken_back(self, recognise, minute, size):
        samples = minute[0]
        blocks = (samples[start : start + size] for start in range(0, len(samples), size))
        answers = list(recognise.stream(blocks, chunk_seconds=7))
        whole = recognise(samples, chunk_seconds=7)
        assert [answer.pop("final") for answer in answers] == [False] * (len(answers) - 1) + [True]
        assert answers[-1] == whole
        assert len(answers) > 5
        for before, after in pairwise(answers):
            assert after["text"].startswith(before["text"])
            assert after["words"][: len(before["words"])] == before["words"]

    def test_words_come_before_the_sound_has_ended(self, recognise, minute):
        given = 0

        def microphone():
            nonlocal given
            for start in range(0, len(minute[0]), 1600):
                given += 1600
                yield minute[0][start : start + 1600]

        first = next(recognise.stream(microphone()))
        assert first["text"]
        assert given < 10 * RATE

    def test_another_rate_and_wrong_blocks(self, recognise, minute):
        samples = minute[0][: 5 * RATE]
        double = np.concatenate(list(resampled([samples], RATE, 48000)))
        blocks = np.array_split(double, 37)
        assert list(recognise.stream(blocks, sampling_rate=48000))[-1]["text"] == recognise(samples)["text"]
        with pytest.raises(ValueError, match="floating point"):
            next(recognise.stream([np.zeros(5, np.int16)]))

    def test_no_sound_is_no_text(self, recognise):
        assert [answer["text"] for answer in recognise.stream([])] == [""]


class TestBeam:
    def test_never_less_likely_than_greedy(self, recognise, monkeypatch):
        pytest.importorskip("flashlight.lib.text")
        beam = Search(decoder="beam", beam_width=5).beam(recognise.model, recognise.tokenizer)
        for seed in range(15):
            logits = np.random.default_rng(seed).normal(scale=2, size=(40, len(recognise.tokenizer)))
            log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
            found = beam.decode(log_probs)[0]
            greedy = tuple(token.id for token in best_tokens(log_probs, 0))
            assert found.acoustic_score >= beam.score_of(log_probs, greedy)
            monkeypatch.setattr(recognise, "frames", lambda samples, frames=log_probs: frames)
            words = recognise(np.zeros(RATE, np.float32), decoder="beam", beam_width=5)["words"]
            assert [word["word"] for word in words] == [
                word.text for word in words_of(found.tokens, recognise.tokenizer)
            ]

    def test_language_model_lexicon_and_hot_words(self, recognise, monkeypatch, tmp_path):
        pytest.importorskip("flashlight.lib.text")
        pytest.importorskip("kenlm")
        write_arpa(build_model([["bà", "mẹ"], ["bà", "mẹ"], ["bá", "nam"]], 2), tmp_path / "lm.arpa")
        (tmp_path / "words.txt").write_text("bà\nmẹ\n", encoding="utf-8")
        log_probs = said_by(recognise.tokenizer, "bá mẹ")
        grave, acute = recognise.tokenizer.convert_tokens_to_ids(["à", "á"])
        log_probs[3:5, grave] = log_probs[3:5, acute] - 0.3
        monkeypatch.setattr(recognise, "frames", lambda samples: log_probs)

        def text(**given):
            return recognise(np.zeros(RATE, np.float32), decoder="beam", **given)["text"]

        assert text() == "bá mẹ"
        assert text(lm=tmp_path / "lm.arpa", lm_weight=2.0) == "bà mẹ"
        assert text(lexicon=tmp_path / "words.txt") == "bà mẹ"
        assert text(lexicon=["bá", "mẹ"]) == "bá mẹ"
        assert text(hotwords=["bà"]) == "bà mẹ"
        assert text(hotwords={"bà": 0.1}) == "bá mẹ"

    def test_libraries_that_are_missing_are_named(self, recognise, monkeypatch):
        monkeypatch.setitem(sys.modules, "flashlight.lib.text", None)
        monkeypatch.setattr(recognise, "decoders", {})
        with pytest.raises(ImportError, match=r"pip install 'hf_fer\[lm\]'"):
            recognise(np.zeros(RATE, np.float32), decoder="beam")
        assert recognise(np.zeros(RATE, np.float32))["text"] == ""

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"decoder": "best"}, "'greedy' or 'beam'"),
            ({"hotwords": ["ba"]}, "hotwords can be used with decoder='beam' only"),
            ({"decoder": "beam", "hotwords": "ba"}, "list of words"),
            ({"decoder": "beam", "hotwords": ["bà mẹ"]}, "one by one"),
            ({"decoder": "beam", "beam_width": 0}, "1 or more"),
            ({"abstain": 2}, r"\[0, 1\]"),
            ({"return_timestamps": "letter"}, "'word' or 'char'"),
            ({"chunk_seconds": 3, "overlap_seconds": 2}, "less than half"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, recognise, given, message):
        with pytest.raises(ValueError, match=message):
            recognise(np.zeros(RATE, np.float32), **given)

    def test_a_lexicon_that_is_not_there(self, recognise):
        with pytest.raises(FileNotFoundError, match="no such lexicon"):
            recognise(np.zeros(RATE, np.float32), decoder="beam", lexicon="absent.txt")


class TestAnswers:
    def test_chunks_as_the_stock_pipeline_has_them(self, recognise, minute):
        samples = minute[0][: 4 * RATE]
        words = recognise(samples, return_timestamps="word")
        assert words["chunks"] == [
            {"text": word["word"], "timestamp": (word["start"], word["end"])} for word in words["words"]
        ]
        letters = recognise(samples, return_timestamps="char")["chunks"]
        assert "".join(letter["text"] for letter in letters) == words["text"].replace(" ", "")
        times = [time for letter in letters for time in letter["timestamp"]]
        assert times == sorted(times)

    @pytest.mark.parametrize("units", ["nfc", "nfd", "bpe"])
    def test_characters_in_every_kind_of_units(self, units):
        tokenizer = build_tokenizer(["việt nam đường phố"] * 3, units, 40)
        ids = encode(tokenizer, "đường việt")
        words = words_of([Token(token, 3 * at, 3 * at + 2, -0.1) for at, token in enumerate(ids)], tokenizer)
        for word, text in zip(words, ["đường", "việt"], strict=True):
            characters = characters_of(word, tokenizer)
            assert [character.text for character in characters] == list(text)
            assert (characters[0].start, characters[-1].stop) == (word.start, word.stop)

    def test_words_under_the_threshold_are_marked(self, recognise, monkeypatch):
        log_probs = said_by(recognise.tokenizer, "bá mẹ")
        log_probs[-3:] = said_by(recognise.tokenizer, "ẹ", 2.0)
        monkeypatch.setattr(recognise, "frames", lambda samples: log_probs)
        answer = recognise(np.zeros(RATE, np.float32), abstain=0.6)
        assert [word["abstain"] for word in answer["words"]] == [False, True]
        assert answer["abstain"] is False
        assert "abstain" not in recognise(np.zeros(RATE, np.float32))
        monkeypatch.setattr(recognise.model.config, "abstention_threshold", 0.6, raising=False)
        assert recognise(np.zeros(RATE, np.float32)) == answer
        assert "abstain" not in recognise(np.zeros(RATE, np.float32), abstain=0)

    def test_confidences_are_those_of_the_stored_temperature(self, recognise, monkeypatch):
        log_probs = said_by(recognise.tokenizer, "bá mẹ", 3.0)
        monkeypatch.setattr(recognise, "frames", lambda samples: log_probs)
        plain = recognise(np.zeros(RATE, np.float32))
        monkeypatch.setattr(recognise.model.config, "word_temperature", 0.5, raising=False)
        sharp = recognise(np.zeros(RATE, np.float32))
        rest = np.exp(2 * (log_probs[0].min() - log_probs[0].max())) * (len(recognise.tokenizer) - 1)
        assert [word["confidence"] for word in sharp["words"]] == pytest.approx([1 / (1 + rest)] * 2, rel=1e-4)
        assert sharp["text"] == plain["text"]
        assert sharp["confidence"] > plain["confidence"]


class TestSound:
    def test_blocks_are_the_whole(self, tmp_path):
        draw = np.random.default_rng(0)
        stereo = draw.normal(scale=0.1, size=(5 * 44100 + 123, 2))
        path = write_wav(tmp_path / "a.wav", stereo, 44100)
        blocks = list(sound_blocks(path, RATE))
        assert len(blocks) > 3
        assert np.array_equal(np.concatenate(blocks), load_audio(path, RATE))

    def test_what_cannot_be_read_is_named(self, tmp_path):
        (tmp_path / "a.wav").write_bytes(b"no sound")
        for source in (tmp_path / "a.wav", b"no sound", tmp_path / "absent.wav"):
            with pytest.raises(UnusableMediaError):
                list(sound_blocks(source, RATE))
        path = write_wav(tmp_path / "b.wav", np.zeros(3 * RATE))
        with pytest.raises(UnusableMediaError, match="max_seconds"):
            list(sound_blocks(path, RATE, MediaLimits(2)))
        assert sum(map(len, sound_blocks(path, RATE, MediaLimits(2), any_length=True))) == 3 * RATE
