"""Turns frames of a CTC model into text, words, times and confidence, by greedy decoding."""

import unicodedata
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORD_BEGIN = "▁"


class Token(NamedTuple):
    """
    One token of the best path.

    Args:
        id: Index in the vocabulary.
        start, stop: First frame, and the one after the last.
        score: Natural log-probability of the token in its most probable frame.
    """

    id: int
    start: int
    stop: int
    score: float


class Word(NamedTuple):
    """
    One word of the best path.

    Args:
        text: The word's text.
        start, stop: First frame, and the one after the last.
        score: Mean of its tokens' log-probabilities.
        tokens: Tokens of the word.
    """

    text: str
    start: int
    stop: int
    score: float
    tokens: tuple[Token, ...] = ()


def blank_id(model: PreTrainedModel) -> int:
    """The vocabulary's index of the blank, which stands for no token."""
    return model.config.pad_token_id


def frame_lengths(model: PreTrainedModel, attention_mask: Tensor) -> Tensor:
    """
    Number of output frames without padding, `(batch,)`.

    Args:
        model: A CTC model of transformers.
        attention_mask: Mask of the model's input, `(batch, mel_frames)` or `(batch, samples)`.

    Raises:
        TypeError: the model has no method for its output length.
    """
    lengths = attention_mask.sum(dim=-1)
    for name in ("_get_subsampling_output_length", "_get_feat_extract_output_lengths"):
        if hasattr(model, name):
            return getattr(model, name)(lengths).long()
    raise TypeError(f"{type(model).__name__} has no method for the number of its output frames.")


def best_tokens(log_probs: np.ndarray, blank: int) -> list[Token]:
    """
    Tokens of the best path: equal neighbouring frames are one token, and blanks are dropped.

    Args:
        log_probs: Natural logarithms `(frames, vocabulary)`, without padding.
        blank: Index of the blank.
    """
    ids, tokens, start = log_probs.argmax(axis=-1), [], 0
    for token, frames in groupby(ids.tolist()):
        stop = start + len(list(frames))
        if token != blank:
            tokens.append(Token(token, start, stop, float(log_probs[start:stop, token].max())))
        start = stop
    return tokens


def at_temperature(tokens: list[Token], log_probs: np.ndarray, temperature: float) -> list[Token]:
    """
    The tokens with their scores at a softmax temperature, each in the frame where it is most probable.

    Args:
        tokens: Tokens of any decoder.
        log_probs: Natural logarithms `(frames, vocabulary)`, from which the tokens come.
        temperature: The frames' logits are divided by it; 1 does not change them.
    """
    if temperature == 1 or not tokens:
        return tokens
    rows = token_frames(tokens, log_probs)
    scores = token_scores(rows, np.array([token.id for token in tokens]), temperature)
    return [token._replace(score=float(score)) for token, score in zip(tokens, scores, strict=True)]


def token_frames(tokens: Sequence[Token], log_probs: np.ndarray) -> np.ndarray:
    """The frame `(vocabulary,)` of each token in which it is most probable, `(tokens, vocabulary)`."""
    best = [token.start + int(log_probs[token.start : token.stop, token.id].argmax()) for token in tokens]
    return log_probs[best]


def token_scores(rows: np.ndarray, ids: np.ndarray, temperature: float) -> np.ndarray:
    """
    Natural log-probabilities `(tokens,)` of tokens at a softmax temperature.

    Args:
        rows: Natural logarithms `(tokens, vocabulary)`, as of `token_frames`.
        ids: Index of each token in the vocabulary, `(tokens,)`.
        temperature: The logits are divided by it.
    """
    return log_softmax(rows.astype(np.float64) / temperature, axis=1)[np.arange(len(ids)), ids]


def words_of(tokens: list[Token], tokenizer: PreTrainedTokenizerBase) -> list[Word]:
    """Tokens joined to words at the tokenizer's word boundaries; joined by spaces they are the text."""
    delimiter = word_delimiter(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens([token.id for token in tokens])
    groups: list[list[Token]] = [[]]
    for token, piece in zip(tokens, pieces, strict=True):
        if piece.startswith(delimiter):
            groups.append([])
        if piece != delimiter:
            groups[-1].append(token)
    words = []
    for group in filter(None, groups):
        text = tokenizer.decode([token.id for token in group], group_tokens=False).strip()
        if text:
            score = sum(token.score for token in group) / len(group)
            words.append(Word(text, group[0].start, group[-1].stop, score, tuple(group)))
    return words


def word_delimiter(tokenizer: PreTrainedTokenizerBase) -> str:
    """The mark of a space: a separate token, or the beginning of a word's first token."""
    return getattr(tokenizer, "word_delimiter_token", None) or WORD_BEGIN


def characters_of(word: Word, tokenizer: PreTrainedTokenizerBase) -> list[Word]:
    """
    Split a word into its NFC characters, each as a `Word`.

    A combining mark that is a token belongs to the letter before it. Characters of a longer piece share its frames
    evenly, to the nearest frame.
    """
    delimiter, groups = word_delimiter(tokenizer), []
    for token in word.tokens:
        piece = tokenizer.convert_ids_to_tokens(token.id).removeprefix(delimiter)
        if groups and piece and all(unicodedata.combining(letter) for letter in piece):
            groups[-1].append(token)
        else:
            groups.append([token])
    characters = []
    for group in groups:
        text = tokenizer.decode([token.id for token in group], group_tokens=False).strip()
        edges = np.linspace(group[0].start, group[-1].stop, len(text) + 1).round().astype(int).tolist()
        score = sum(token.score for token in group) / len(group)
        characters += [Word(*found, score) for found in zip(text, edges, edges[1:], strict=False)]
    return characters


def text_of(frames: list[int] | np.ndarray, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the best path, from the best token of each frame."""
    return " ".join(tokenizer.decode(list(map(int, frames))).split())


def timed(words: list[Word], seconds_per_frame: float) -> list[dict[str, Any]]:
    """Words as `word`, `start` and `end` in seconds, and `confidence` in (0, 1]."""
    return [
        {
            "word": word.text,
            "start": round(word.start * seconds_per_frame, 3),
            "end": round(word.stop * seconds_per_frame, 3),
            "confidence": confidence([word]),
        }
        for word in words
    ]


def confidence(words: list[Word]) -> float:
    """The geometric mean of the words' confidences, in (0, 1]; 0 if there are no words."""
    return float(np.exp(np.mean([word.score for word in words]))) if words else 0.0


__all__ = [
    "Token",
    "Word",
    "at_temperature",
    "best_tokens",
    "blank_id",
    "characters_of",
    "confidence",
    "frame_lengths",
    "text_of",
    "timed",
    "token_frames",
    "token_scores",
    "word_delimiter",
    "words_of",
]
