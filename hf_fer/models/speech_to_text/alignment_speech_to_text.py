"""From frames of a CTC model to text, words, times and confidence, without search."""

from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

WORD_BEGIN = "▁"


class Token(NamedTuple):
    """
    One token of the best path.

    Args:
        id: Of the vocabulary.
        start, stop: First frame, and the one after the last.
        score: Natural logarithm of the token's probability, of its surest frame.
    """

    id: int
    start: int
    stop: int
    score: float


class Word(NamedTuple):
    """
    One word of the best path.

    Args:
        text: As it is written.
        start, stop: First frame, and the one after the last.
        score: Mean of its tokens' log-probabilities.
    """

    text: str
    start: int
    stop: int
    score: float


def blank_id(model: PreTrainedModel) -> int:
    """The vocabulary's index of the blank, which stands for no token."""
    return model.config.pad_token_id


def frame_lengths(model: PreTrainedModel, attention_mask: Tensor) -> Tensor:
    """
    Frames that a model gives for what is not padding, `(batch,)`.

    Args:
        model: A CTC model of transformers.
        attention_mask: Of its input, `(batch, mel_frames)` or `(batch, samples)`.

    Raises:
        TypeError: it does not say how it shortens its input.
    """
    lengths = attention_mask.sum(dim=-1)
    for name in ("_get_subsampling_output_length", "_get_feat_extract_output_lengths"):
        if hasattr(model, name):
            return getattr(model, name)(lengths).long()
    raise TypeError(f"{type(model).__name__} does not say how many frames it makes of its input.")


def best_tokens(log_probs: np.ndarray, blank: int) -> list[Token]:
    """
    The best path's tokens: of neighbouring frames with one token it counts once, and blanks do not count.

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


def words_of(tokens: list[Token], tokenizer: PreTrainedTokenizerBase) -> list[Word]:
    """Tokens joined to words at the tokenizer's word boundaries; joined by spaces they are the text."""
    delimiter = getattr(tokenizer, "word_delimiter_token", None) or WORD_BEGIN
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
            words.append(Word(text, group[0].start, group[-1].stop, score))
    return words


def text_of(frames: list[int] | np.ndarray, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of the best path, from the best token of each frame."""
    return " ".join(tokenizer.decode(list(map(int, frames))).split())


def timed(words: list[Word], seconds_per_frame: float) -> list[dict[str, Any]]:
    """Words as `word`, `start` and `end` in seconds, and `confidence` in (0, 1], not calibrated."""
    return [
        {
            "word": word.text,
            "start": round(word.start * seconds_per_frame, 3),
            "end": round(word.stop * seconds_per_frame, 3),
            "confidence": float(np.exp(word.score)),
        }
        for word in words
    ]


def transcribe(logits: Tensor, tokenizer: PreTrainedTokenizerBase, blank: int) -> tuple[str, list[Word]]:
    """Text and words of one recording's logits `(frames, vocabulary)`, without padding."""
    log_probs = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
    return text_of(log_probs.argmax(axis=-1), tokenizer), words_of(best_tokens(log_probs, blank), tokenizer)


__all__ = ["Token", "Word", "best_tokens", "blank_id", "frame_lengths", "text_of", "timed", "transcribe", "words_of"]
