"""Synthetic recordings for the demo: each letter is a pattern of tones, played by voices of different pitch."""

import csv
from pathlib import Path

import numpy as np
from scipy.io import wavfile

RATE = 16000
DEMO_NOTICE = "Synthetic beeps, one pattern for each letter: scores on them say nothing about speech."
VERSION = "speech_2"

WORDS = ("ba", "bà", "bá", "bạn", "là", "lá", "má", "mẹ", "mèo", "nam", "năm", "nói", "tám", "tôi", "đi", "đá", "đèn")
FORMANTS = (320.0, 480.0, 700.0, 1000.0, 1450.0, 2100.0, 3000.0, 4200.0)
LETTER_SECONDS, GAP_SECONDS, PAUSE_SECONDS = 0.11, 0.02, 0.12
SPLITS = {"train": (8, 40), "val": (3, 12), "test": (3, 12)}
"""Number of voices, and of utterances of each voice, by split."""


def letter_pattern(letter: str) -> tuple[float, float]:
    """The two frequencies in Hz that stand for a letter."""
    alphabet = sorted({letter for word in WORDS for letter in word})
    pairs = [(low, high) for index, low in enumerate(FORMANTS) for high in FORMANTS[index + 1 :]]
    return pairs[alphabet.index(letter)]


def spoken(sentence: str, pitch: float, speed: float, rng: np.random.Generator) -> np.ndarray:
    """
    Synthesise a sentence, `float32 (samples,)`.

    Args:
        sentence: Words of `WORDS`, with spaces.
        pitch: Factor on all frequencies.
        speed: Factor on all durations.
        rng: Draws the noise and the small variations of each letter.
    """
    parts = [np.zeros(int(0.1 * RATE))]
    for letter in sentence:
        if letter == " ":
            parts.append(np.zeros(int(PAUSE_SECONDS * speed * RATE)))
            continue
        time = np.arange(int(LETTER_SECONDS * speed * rng.uniform(0.85, 1.15) * RATE)) / RATE
        low, high = (pitch * frequency * rng.uniform(0.98, 1.02) for frequency in letter_pattern(letter))
        tone = np.sin(2 * np.pi * low * time) + 0.7 * np.sin(2 * np.pi * high * time)
        parts += [tone * np.hanning(len(time)), np.zeros(int(GAP_SECONDS * speed * RATE))]
    sound = np.concatenate([*parts, np.zeros(int(0.1 * RATE))])
    return (0.2 * rng.uniform(0.5, 1.0) * (sound + 0.02 * rng.standard_normal(len(sound)))).astype(np.float32)


def make_demo(folder: Path, seed: int = 0) -> Path:
    """
    Write the recordings and their manifest, unless they exist; no voice is in two splits.

    Args:
        folder: The recordings are written to a folder in it.
        seed: Determines voices and sentences.

    Returns:
        Path of the manifest.
    """
    folder = folder / VERSION
    table = folder / "recordings.csv"
    if table.is_file():
        return table
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(seed), []
    for split, (voices, utterances) in SPLITS.items():
        for voice in range(voices):
            name, pitch, speed = f"{split}_{voice}", rng.uniform(0.94, 1.06), rng.uniform(0.9, 1.1)
            for number in range(utterances):
                sentence = " ".join(rng.choice(WORDS, size=rng.integers(2, 5)))
                path = folder / f"{name}_{number}.wav"
                samples = spoken(sentence, pitch, speed, rng)
                wavfile.write(path, RATE, (samples * 32767).astype(np.int16))
                rows.append([path.name, sentence, name, split])
    unfinished = table.with_suffix(".part")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["file_path", "transcript", "speaker_id", "split"], *rows])
    unfinished.rename(table)
    return table
