"""Chunks of long recordings: every sample is covered, and joined frames say what the whole says."""

import itertools
import random

import numpy as np
import pytest

from hf_fer.models.speech_to_text.alignment_speech_to_text import best_tokens
from hf_fer.models.speech_to_text.chunking_speech_to_text import (
    Chunker,
    Joiner,
    WordBoundary,
    join_log_probs,
    plan_chunks,
    quietest,
    seam,
)

RATE = 1000
STEP = 40


def speech(seconds, seed=0):
    """Noise with pauses of 0.3 s at random, `(samples,)`."""
    draw = np.random.default_rng(seed)
    samples = draw.normal(scale=0.3, size=int(seconds * RATE)).astype("f4")
    at = 0
    while at < len(samples):
        at += int(draw.uniform(0.6, 3.0) * RATE)
        samples[at : at + 300] *= 1e-3
    return samples


def frames_of(tokens, size=6):
    """Sure log-probabilities of a token for each frame."""
    log_probs = np.full((len(tokens), size), -7.0, np.float32)
    log_probs[np.arange(len(tokens)), tokens] = -0.01
    return log_probs


def utterance(count, seed):
    """A token for each frame, as CTC gives them: tokens of 1 to 3 frames with blanks between."""
    draw, tokens = random.Random(seed), []
    while len(tokens) < count:
        tokens += [draw.randint(1, 5)] * draw.randint(1, 3) + [0] * draw.randint(1, 4)
    return np.array(tokens[:count])


def ids(log_probs):
    return [token.id for token in best_tokens(log_probs, 0)]


@pytest.mark.parametrize("seed", range(10))
def test_chunks_cover_every_sample_and_overlap(seed):
    samples = speech(70 + seed * 3.7, seed)
    chunks = plan_chunks(samples, RATE, chunk_seconds=8, overlap_seconds=1, step=STEP)
    assert chunks[0].start == 0
    assert chunks[-1].stop == len(samples)
    for first, second in itertools.pairwise(chunks):
        assert first.start < second.start < first.stop < second.stop
        assert first.stop - second.start == pytest.approx(RATE, abs=STEP)
        assert second.start % STEP == 0
        middle = (second.start + first.stop) // 2
        assert np.abs(samples[middle - 40 : middle + 40]).max() < 0.01  # a pause
    assert all(chunk.stop - chunk.start <= 8 * RATE for chunk in chunks)


def test_sound_that_comes_bit_by_bit_is_cut_alike_in_flat_memory():
    samples = speech(60)
    whole = plan_chunks(samples, RATE, chunk_seconds=8, overlap_seconds=1, step=STEP)
    chunker, found, at, draw = Chunker(RATE, chunk_seconds=8, overlap_seconds=1, step=STEP), [], 0, random.Random(0)
    while at < len(samples):
        size = draw.randint(1, 900)
        for chunk, part in chunker.push(samples[at : at + size]):
            assert np.array_equal(part, samples[chunk.start : chunk.stop])
            found.append(chunk)
        at += size
        assert len(chunker.held) <= 8 * RATE
    found += [chunk for chunk, _ in chunker.flush()]
    assert found == whole


def test_short_silent_and_empty_recordings():
    assert plan_chunks(speech(3), RATE, chunk_seconds=8, overlap_seconds=1) == [(0, 3000)]
    assert plan_chunks(np.zeros(0, "f4"), RATE, chunk_seconds=8, overlap_seconds=1) == []
    chunks = plan_chunks(np.zeros(60 * RATE, "f4"), RATE, chunk_seconds=8, overlap_seconds=1)
    assert len(chunks) < 60 / 4
    assert quietest(np.array([1.0] * 100 + [0.0] * 300 + [1.0] * 100), RATE) == pytest.approx(250, abs=60)


def test_an_overlap_of_half_a_chunk_is_refused():
    with pytest.raises(ValueError, match="less than half of"):
        Chunker(RATE, chunk_seconds=2, overlap_seconds=1)


@pytest.mark.parametrize("seed", range(30))
def test_joined_chunks_say_what_the_whole_says(seed):
    draw = random.Random(seed)
    tokens = utterance(400, seed)
    whole = frames_of(tokens)
    chunks, start = [], 0
    while True:
        stop = min(start + draw.randint(60, 100), len(whole))
        part = whole[start:stop].copy()
        # A chunk is wrong about the frames at its edges, where it hears half a word.
        if start:
            part[:4] = frames_of([draw.randint(0, 5) for _ in range(4)])
        if stop < len(whole):
            part[-4:] = frames_of([draw.randint(0, 5) for _ in range(4)])
        chunks.append((start, part))
        if stop == len(whole):
            break
        start = stop - 24
    joined = join_log_probs(chunks, 0)
    assert len(joined) == len(whole)
    assert ids(joined) == ids(whole)


def test_a_seam_lies_where_both_say_blank():
    first, second = frames_of([1, 1, 0, 0, 0, 2, 0]), frames_of([3, 1, 0, 0, 0, 2, 2])
    assert seam(first, second, 0) == 3
    assert seam(frames_of([1, 1]), frames_of([1, 1]), 0) in (0, 1)
    assert seam(first[:0], second, 0) == 0


@pytest.mark.parametrize("shift", [-1, 1, 2])
def test_tokens_that_two_chunks_place_differently_are_neither_doubled_nor_lost(shift):
    for seed in range(30):
        whole = utterance(200, seed)
        whole[95:105] = 0  # the pause for which the overlap was chosen
        moved = np.roll(whole, shift)
        joined = join_log_probs([(0, frames_of(whole[:115])), (85, frames_of(moved[85:]))], 0)
        expected = ids(frames_of(whole[:100])) + ids(frames_of(moved[100:]))
        assert ids(joined) == expected


def test_joining_holds_one_overlap():
    tokens = utterance(1000, 3)
    whole, joiner, out = frames_of(tokens), Joiner(0), []
    for start in range(0, 1000, 50):
        following = start + 50 if start + 50 < 1000 else None
        out.append(joiner.push(whole[start : start + 70], start, following))
        assert joiner.held is None or len(joiner.held) <= 20
    assert np.array_equal(np.concatenate(out), whole)
    joiner.push(whole[:50], 0, 40)
    with pytest.raises(ValueError, match="begins at frame 60"):
        joiner.push(whole[60:], 60, None)
    with pytest.raises(ValueError, match="no chunk"):
        join_log_probs([], 0)


def test_words_are_given_out_whole():
    starts = [False, True, False, False, False, False]  # token 1 is the space
    for seed in range(20):
        whole, boundary, draw, parts = (
            frames_of(utterance(300, seed)),
            WordBoundary(0, starts),
            random.Random(seed),
            [],
        )
        at = 0
        while at < len(whole):
            size = draw.randint(1, 40)
            parts.append(boundary.push(whole[at : at + size]))
            at += size
        parts.append(boundary.flush())
        assert np.array_equal(np.concatenate(parts), whole)
        spoken = [found for part in parts if len(part) and (found := ids(part))]
        assert [token for part in spoken for token in part] == ids(whole)
        assert all(part[0] == 1 for part in spoken[1:])


def test_frames_without_words_are_not_held_for_ever():
    boundary = WordBoundary(0, [False, True, False], longest=50)
    for _ in range(100):
        boundary.push(frames_of([0] * 10, 3))
        assert len(boundary.held) <= 60
