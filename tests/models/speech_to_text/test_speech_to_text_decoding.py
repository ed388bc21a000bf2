"""Beam search against what can be counted out: exhaustive decoding, the greedy path, and CTC's own likelihood."""

import itertools
import math
import random

import numpy as np
import pytest

pytest.importorskip("flashlight.lib.text")

from hf_fer.models.speech_to_text.alignment_speech_to_text import best_tokens, words_of
from hf_fer.models.speech_to_text.decoding_speech_to_text import (
    BeamDecoder,
    BeamSettings,
    acoustic_scores,
    align,
    collapse,
)
from hf_fer.models.speech_to_text.train.vocabulary import build_tokenizer, encode

PIECES = ["<pad>", "▁", "a", "b", "o"]
LETTERS = {piece: index for index, piece in enumerate(PIECES)}
WIDE = BeamSettings(beam_size=5000, beam_threshold=1e4)


def frames(seed, count, size=5, sharpness=2.0):
    """Random log-probabilities `(count, size)`."""
    logits = np.random.default_rng(seed).normal(scale=sharpness, size=(count, size))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def exhaustive(log_probs):
    """Log-probability of every transcript, by every path."""
    totals = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        score = sum(float(log_probs[frame, token]) for frame, token in enumerate(path))
        ids = collapse(path, 0)
        totals[ids] = np.logaddexp(totals.get(ids, -math.inf), score)
    return totals


def certain(text, sharpness=8.0):
    """Frames that say a text, with a blank after each letter."""
    path = [token for letter in text for token in (LETTERS[letter], 0)]
    logits = np.zeros((len(path), len(PIECES)))
    logits[np.arange(len(path)), path] = sharpness
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def spell(word):
    return [LETTERS[letter] for letter in word if letter in LETTERS]


@pytest.mark.parametrize("seed", range(12))
def test_a_wide_beam_is_an_exhaustive_search(seed):
    size = 3 + seed % 3
    log_probs = frames(seed, 5, size)
    totals = sorted(exhaustive(log_probs).items(), key=lambda item: -item[1])[:4]
    found = BeamDecoder(PIECES[:size], 0, settings=WIDE).decode(log_probs, count=4)
    assert [hypothesis.ids for hypothesis in found] == [ids for ids, _ in totals]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in totals], abs=1e-4)


def test_a_narrow_beam_adds_alignments_up():
    """Of 100 random recordings a beam of 3 finds the best transcript of 49; by best alignments it would of 33."""
    narrow = BeamDecoder(PIECES[:4], 0, settings=BeamSettings(beam_size=3, beam_threshold=1e4))
    wide = BeamDecoder(PIECES[:4], 0, settings=WIDE)
    recordings = [frames(seed, 10, 4, sharpness=1.0) for seed in range(100)]
    assert sum(narrow.decode(each)[0].ids == wide.decode(each)[0].ids for each in recordings) > 42


@pytest.mark.parametrize("beam_size", [1, 3, 20])
def test_never_worse_than_greedy_whatever_the_beam(beam_size):
    decoder = BeamDecoder(PIECES, 0, settings=BeamSettings(beam_size=beam_size, beam_threshold=5.0))
    for seed in range(60):
        log_probs = frames(seed, 30)
        greedy = tuple(token.id for token in best_tokens(log_probs, 0))
        assert decoder.decode(log_probs)[0].score >= decoder.score_of(log_probs, greedy)


def test_acoustic_score_is_the_sum_over_alignments():
    log_probs = frames(3, 5)
    totals = exhaustive(log_probs)
    proposals = [(), (2,), (2, 2), (2, 3, 4, 2, 3), (2, 2, 2, 2)]
    found = acoustic_scores(log_probs, proposals, 0)
    assert found == pytest.approx([totals.get(ids, -math.inf) for ids in proposals], abs=1e-4)


def test_doubled_letters_and_an_empty_answer():
    decoder = BeamDecoder(PIECES, 0)
    assert decoder.decode(certain("boo▁ab"))[0].text == "boo ab"
    assert decoder.decode(certain("aa"))[0].ids == (2, 2)
    silence = np.log(np.array([[0.96, 0.01, 0.01, 0.01, 0.01]] * 20, np.float32))
    assert decoder.decode(silence)[0].text == ""
    assert decoder.decode(silence[:0])[0].ids == ()


def test_times_are_monotone_and_inside():
    decoder = BeamDecoder(PIECES, 0)
    for seed in range(40):
        log_probs = frames(seed, 25)
        tokens = decoder.decode(log_probs)[0].tokens
        edges = [edge for token in tokens for edge in (token.start, token.stop)]
        assert edges == sorted(edges)
        assert all(token.start < token.stop <= 25 and token.score <= 0 for token in tokens)


def test_alignment_of_the_greedy_path_is_the_greedy_path():
    log_probs = certain("ab▁oo")
    greedy = best_tokens(log_probs, 0)
    assert align(log_probs, [token.id for token in greedy], 0) == greedy
    with pytest.raises(ValueError, match="need 5 frames"):
        align(log_probs[:4], [2, 2, 2], 0)


def test_lexicon_corrects_a_word_and_still_lets_a_clear_other_one_through():
    log_probs = frames(0, 0)
    log_probs = certain("ab▁bo")
    log_probs[2, LETTERS["o"]] = log_probs[2, LETTERS["b"]] + 0.1  # "ao" by a hair
    assert BeamDecoder(PIECES, 0).decode(log_probs)[0].text == "ao bo"
    decoder = BeamDecoder(PIECES, 0, spell=spell, lexicon=["ab", "bo", "x"])
    assert decoder.decode(log_probs)[0].text == "ab bo"
    assert decoder.decode(certain("bob▁ab", 12.0))[0].text == "bob ab"


def test_lexicon_finds_what_all_sequences_of_its_words_contain():
    words = ["a", "ab", "ba"]
    decoder = BeamDecoder(PIECES, 0, spell=spell, lexicon=words, settings=BeamSettings(5000, 1e4, unknown_score=-1e6))
    for seed in range(8):
        log_probs = frames(seed, 5)
        totals = exhaustive(log_probs)
        allowed = {ids: score for ids, score in totals.items() if set(decoder.text(ids).split()) <= set(words)}
        assert decoder.decode(log_probs)[0].score == pytest.approx(max(allowed.values()), abs=1e-4)


@pytest.mark.parametrize("lexicon", [None, ["ab", "ao"]])
def test_hot_words_win_where_the_sound_is_undecided(lexicon):
    log_probs = certain("ab", 3.0)
    log_probs[2, LETTERS["o"]] = log_probs[2, LETTERS["b"]] - 1.0
    plain = BeamDecoder(PIECES, 0, spell=spell, lexicon=lexicon, settings=BeamSettings(beam_size=8))
    hot = BeamDecoder(
        PIECES, 0, spell=spell, lexicon=lexicon, hot_words={"ao": 4.0}, settings=BeamSettings(beam_size=8)
    )
    assert plain.decode(log_probs)[0].text == "ab"
    found = hot.decode(log_probs)[0]
    assert found.text == "ao"
    assert found.score == pytest.approx(found.acoustic_score + 4.0)
    assert hot.decode(certain("bob", 12.0))[0].text == "bob"


def test_pieces_that_begin_words():
    pieces = ["<pad>", "<unk>", "▁ba", "▁a", "b", "a"]
    index = {piece: number for number, piece in enumerate(pieces)}
    decoder = BeamDecoder(
        pieces,
        0,
        spell=lambda word: [index["▁ba"], index["b"]] if word == "bab" else [index["▁a"]],
        lexicon=["bab", "a"],
    )
    path = [index["▁ba"], 0, index["b"], index["▁a"], 0]
    log_probs = np.full((5, 6), -6.0, np.float32)
    log_probs[np.arange(5), path] = -0.02
    assert decoder.decode(log_probs)[0].text == "bab a"


def test_wrong_input_is_refused():
    decoder = BeamDecoder(PIECES, 0)
    with pytest.raises(ValueError, match=r"\(frames, 5\)"):
        decoder.decode(frames(0, 4, 3))
    with pytest.raises(ValueError, match="not finite"):
        decoder.decode(np.full((3, 5), np.nan))
    with pytest.raises(ValueError, match="needs 'spell'"):
        BeamDecoder(PIECES, 0, lexicon=["a"])
    with pytest.raises(ValueError, match="can spell no word"):
        BeamDecoder(PIECES, 0, lexicon=["xyz"], spell=spell)
    with pytest.raises(FileNotFoundError, match="no such language model"):
        BeamDecoder(PIECES, 0, language_model="absent.arpa")


def test_impossible_tokens_do_no_harm():
    log_probs = frames(1, 12)
    log_probs[:, 4] = -np.inf
    found = BeamDecoder(PIECES, 0).decode(log_probs)[0]
    assert 4 not in found.ids
    assert math.isfinite(found.score)


def test_random_settings_keep_the_order_of_scores():
    draw = random.Random(0)
    for seed in range(10):
        settings = BeamSettings(beam_size=draw.randint(2, 30), word_score=draw.uniform(-1, 1))
        scores = [found.score for found in BeamDecoder(PIECES, 0, settings=settings).decode(frames(seed, 20), count=5)]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("units", ["nfc", "nfd", "bpe"])
def test_words_of_a_lexicon_in_every_kind_of_units(units):
    texts = ["đường phố việt nam", "cà phê sữa đá", "quý khách"]
    tokenizer = build_tokenizer(texts, units, 60)
    blank, pieces = tokenizer.pad_token_id, tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    words = set(" ".join(texts).split())
    decoder = BeamDecoder(pieces, blank, spell=lambda word: encode(tokenizer, word), lexicon=words)
    path = [token for index in encode(tokenizer, "cà phê việt") for token in (index, blank)]
    logits = np.zeros((len(path), len(pieces)))
    logits[np.arange(len(path)), path] = 6
    found = decoder.decode(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[0]
    assert found.text == "cà phê việt"
    spoken = words_of(found.tokens, tokenizer)
    assert [word.text for word in spoken] == ["cà", "phê", "việt"]
    assert all(first.stop <= second.start for first, second in itertools.pairwise(spoken))
