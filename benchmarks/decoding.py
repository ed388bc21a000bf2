"""Beam search by flashlight-text beside a plain Python prefix beam search, on the same logits:

python benchmarks/decoding.py [--frames 200] [--vocabulary 95] [--utterances 8] [--beam_size 32] [--json OUT]

The logits are drawn: transcripts of random tokens, each frame with a likely wrong token beside the right one. A table
gives for greedy decoding and both searches the mean log-probability of the answers by CTC's own likelihood, how often
each is below the greedy answer, and milliseconds an utterance.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from hf_fer.models.speech_to_text.decoding_speech_to_text import BeamDecoder, BeamSettings, acoustic_scores, collapse
from hf_fer.reporting.report import markdown_table

BLANK = 0
EPSILON = 1e-9


def draw_log_probs(frames: int, vocabulary: int, seed: int) -> np.ndarray:
    """Log-probabilities `(frames, vocabulary)` of a recogniser in doubt."""
    draw = np.random.default_rng(seed)
    path = np.where(draw.random(frames) < 0.6, BLANK, draw.integers(1, vocabulary, frames))
    logits = draw.normal(size=(frames, vocabulary))
    logits[np.arange(frames), path] += 6
    logits[np.arange(frames), draw.integers(0, vocabulary, frames)] += 5
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def python_prefix_beam(log_probs: np.ndarray, beam_size: int) -> tuple[int, ...]:
    """Prefix beam search (Hannun et al. 2014, arXiv 1408.2873) without a language model, for comparison only."""
    beams = {(): (0.0, -math.inf)}  # prefix -> log-probability of the paths that end in a blank, and in a token
    for frame in log_probs.astype(float):
        following: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [-math.inf, -math.inf])
        for prefix, (in_blank, in_token) in beams.items():
            total = np.logaddexp(in_blank, in_token)
            for token, score in enumerate(frame):
                if token == BLANK:
                    following[prefix][0] = np.logaddexp(following[prefix][0], total + score)
                elif prefix and prefix[-1] == token:
                    following[prefix][1] = np.logaddexp(following[prefix][1], in_token + score)
                    longer = following[(*prefix, token)]
                    longer[1] = np.logaddexp(longer[1], in_blank + score)
                else:
                    longer = following[(*prefix, token)]
                    longer[1] = np.logaddexp(longer[1], total + score)
        best = sorted(following.items(), key=lambda item: -np.logaddexp(*item[1]))[:beam_size]
        beams = {prefix: tuple(scores) for prefix, scores in best}
    return max(beams, key=lambda prefix: np.logaddexp(*beams[prefix]))


def measure(decoders: dict[str, Callable], utterances: list[np.ndarray]) -> pd.DataFrame:
    """A row for each decoder; the first is what the others are compared with."""
    scores, rows = {}, []
    for name, decode in decoders.items():
        begun = time.perf_counter()
        answers = [decode(log_probs) for log_probs in utterances]
        seconds = (time.perf_counter() - begun) / len(utterances)
        pairs = zip(utterances, answers, strict=True)
        scores[name] = [acoustic_scores(log_probs, [ids], BLANK)[0] for log_probs, ids in pairs]
        below = np.array(scores[name]) < np.array(next(iter(scores.values()))) - EPSILON
        rows.append(
            {
                "decoder": name,
                "mean log-probability": float(np.mean(scores[name])),
                "below greedy": int(below.sum()),
                "ms an utterance": 1000 * seconds,
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--vocabulary", type=int, default=95)
    parser.add_argument("--utterances", type=int, default=8)
    parser.add_argument("--beam_size", type=int, default=32)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    utterances = [draw_log_probs(args.frames, args.vocabulary, seed) for seed in range(args.utterances)]
    pieces = ["<pad>", *(f"t{number}" for number in range(1, args.vocabulary))]
    beam = BeamDecoder(pieces, BLANK, settings=BeamSettings(beam_size=args.beam_size))
    table = measure(
        {
            "greedy": lambda log_probs: collapse(log_probs.argmax(axis=1).tolist(), BLANK),
            "flashlight-text, exact scores": lambda log_probs: beam.decode(log_probs)[0].ids,
            "plain Python": lambda log_probs: python_prefix_beam(log_probs, args.beam_size),
        },
        utterances,
    )
    print(markdown_table(table))
    if args.json:
        args.json.write_text(json.dumps(table.to_dict("records"), indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
