"""Data sets of tokens: whole and shortened texts for training, windows of texts for evaluation."""

import math
import random
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_fer.data.augment import EpochClock

from ..windows_language_id import cut_windows

# Most languages need fewer characters per token, so a cut of this many per token fills the window.
CHARACTERS_PER_TOKEN = 8


def cut_text(text: str, length: int, rng: random.Random) -> str:
    """
    Cut about `length` characters from a random place, in whole words if spaces are near enough.

    Args:
        text: Normalised text, whose only white space is the space.
        length: Wanted number of characters; a text that is not longer is returned whole.
        rng: Generator that draws the place.
    """
    if length >= len(text):
        return text
    start = rng.randrange(len(text) - length + 1)
    first = text.rfind(" ", 0, start + 1) + 1
    last = text.find(" ", start + length)
    words = text[first : last if last >= 0 else None].strip()
    if words and (first > 0 or last >= 0) and len(words) <= 2 * length + 20:
        return words
    return text[start : start + length].strip() or text[:length]


def cut_words(text: str, count: int, rng: random.Random) -> str:
    """`count` neighbouring words of a text; a text without spaces gives 3 characters for each word."""
    words = text.split(" ")
    if len(words) <= count:
        size = 3 * count
        start = rng.randrange(max(len(text) - size, 0) + 1)
        return text[start : start + size]
    start = rng.randrange(len(words) - count + 1)
    return " ".join(words[start : start + count])


class TrainingTexts(torch.utils.data.Dataset):
    """
    Every text whole, and `short_copies` copies of it that are cut to random lengths.

    The length of a short copy is fixed for its row, so that batches can be grouped by length once. The place of the
    cut and the replaced tokens depend only on (seed, epoch, row).

    Args:
        texts, labels: Normalised texts and their classes.
        tokenizer: Fast tokenizer.
        max_length: Tokens per window; each epoch sees one window of a longer text, from a random place.
        short_copies: Copies per text and epoch.
        short_lengths: Fewest and most characters of a short copy; lengths are log-uniform.
        token_dropout: Fraction of tokens that are replaced by the unknown token.
        seed, clock: Seed and epoch of the random cuts.
    """

    def __init__(
        self,
        texts: list[str],
        labels: list[int],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        short_copies: int,
        short_lengths: tuple[int, int],
        token_dropout: float,
        seed: int,
        clock: EpochClock,
    ):
        self.texts, self.labels, self.tokenizer = texts, labels, tokenizer
        self.max_length, self.token_dropout, self.seed, self.clock = max_length, token_dropout, seed, clock
        low, high = map(math.log, short_lengths)
        lengths = random.Random(f"{seed} lengths")
        whole = [CHARACTERS_PER_TOKEN * max_length] * len(texts)
        self.lengths = whole + [round(math.exp(lengths.uniform(low, high))) for _ in texts * short_copies]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        """Rows as `{"input_ids", "labels"}`, tokenised together."""
        generators = [random.Random(f"{self.seed} {self.clock.epoch} {row}") for row in rows]
        texts = [
            cut_text(self.texts[row % len(self.texts)], self.lengths[row], rng)
            for row, rng in zip(rows, generators, strict=True)
        ]
        encoded = self.tokenizer(texts, truncation=True, max_length=self.max_length, return_attention_mask=False)
        return [
            {"input_ids": self.hide(ids, rng), "labels": self.labels[row % len(self.texts)]}
            for ids, row, rng in zip(encoded["input_ids"], rows, generators, strict=True)
        ]

    def hide(self, input_ids: list[int], rng: random.Random) -> list[int]:
        """Replaces random tokens by the unknown token; special tokens stay."""
        special, unknown = set(self.tokenizer.all_special_ids), self.tokenizer.unk_token_id
        if not self.token_dropout or unknown is None:
            return input_ids
        return [
            unknown if token not in special and rng.random() < self.token_dropout else token for token in input_ids
        ]


def evaluation_windows(
    texts: list[str],
    labels: list[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    overlap: int,
    max_windows: int | None,
) -> Dataset:
    """Windows as rows of `input_ids`, `labels`, `length` in tokens, and `text`, the position of the window's text."""
    windows = cut_windows(tokenizer, texts, max_length=max_length, overlap=overlap, max_windows=max_windows)
    return Dataset.from_dict(
        {
            "input_ids": [window.input_ids for window in windows],
            "labels": [labels[window.text] for window in windows],
            "length": [len(window.input_ids) for window in windows],
            "text": [window.text for window in windows],
        }
    )


class TextCollator:
    """Pads token sequences to the longest of the batch, rounded up to a multiple of `pad_to`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pad_to: int | None = None):
        self.tokenizer = tokenizer
        self.pad_to = pad_to

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.tokenizer.pad(
            {"input_ids": [example["input_ids"] for example in examples]},
            pad_to_multiple_of=self.pad_to,
            return_tensors="pt",
        )
        return {**batch, "labels": torch.tensor([example["labels"] for example in examples])}
