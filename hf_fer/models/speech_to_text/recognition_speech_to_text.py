"""Recognises words in streamed sound: runs the model on chunks, joins their frames and decodes them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .alignment_speech_to_text import Token, Word, at_temperature, best_tokens, blank_id, word_delimiter, words_of
from .chunking_speech_to_text import Chunk, Chunker, Joiner, WordBoundary
from .decoding_speech_to_text import BeamDecoder, BeamSettings, words_of_arpa

HOT_WORD_SCORE = 4.0
"""Default bonus of a hot word in a transcript's score; natural logarithm."""


@dataclass(frozen=True)
class Cutting:
    """
    How a long recording is cut into chunks.

    Args:
        chunk_seconds: Largest length of a chunk; 0 takes the whole recording.
        overlap_seconds: Overlap of neighbouring chunks; `None` is 2, or a quarter of chunks under 8 s.
    """

    chunk_seconds: float = 30.0
    overlap_seconds: float | None = None

    @property
    def overlap(self) -> float:
        """Overlap of neighbouring chunks, in seconds."""
        return min(2.0, self.chunk_seconds / 4) if self.overlap_seconds is None else self.overlap_seconds


class Recogniser:
    """
    Recognises the words of recordings, one after another; it holds one chunk of sound and frames of unfinished words.

    A recording of one chunk is decoded as a whole. In a longer one, each section from the last word that began in one
    chunk to the last word that began in the next is decoded on its own.

    Args:
        frames: Samples `(samples,)` -> natural log-probabilities `(frames, vocabulary)`.
        decode: Log-probabilities -> tokens with frames.
        model: The model that computes the frames, for the index of its blank and the temperature of its confidences.
        tokenizer: Tokenizer of the model.
        rate: Rate of the samples, in Hz.
        step: Samples per frame.
        cutting: How recordings are cut into chunks.
    """

    def __init__(
        self,
        frames: Callable[[np.ndarray], np.ndarray],
        decode: Callable[[np.ndarray], list[Token]],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rate: int,
        step: int,
        cutting: Cutting,
    ):
        self.frames, self.decode, self.tokenizer = frames, decode, tokenizer
        self.rate, self.step, self.cutting = rate, step, cutting
        self.blank, self.temperature = blank_id(model), word_temperature(model)
        delimiter = word_delimiter(tokenizer)
        self.starts_word = [piece.startswith(delimiter) for piece in vocabulary(model, tokenizer)]

    def recognise(self, blocks: Iterable[np.ndarray]) -> Iterator[list[Word]]:
        """
        Words as soon as no later sound can change them, in order.

        Args:
            blocks: Samples `(samples,)` at `rate`, in blocks of any lengths.

        Yields:
            The next words, with frames counted from the beginning of the recording; one list per chunk, which may be
            empty.
        """
        joiner, boundary, decoded = Joiner(self.blank), WordBoundary(self.blank, self.starts_word), 0
        for chunk, samples, following in self._chunks(blocks):
            joined = joiner.push(self.frames(samples), chunk.start // self.step, following)
            last = following is None
            ended = np.concatenate([boundary.flush(), joined]) if last else boundary.push(joined)
            yield self._words(ended, decoded)
            decoded += len(ended)

    def _chunks(self, blocks: Iterable[np.ndarray]) -> Iterator[tuple[Chunk, np.ndarray, int | None]]:
        """Chunks with their samples and the index of the next chunk's first frame, `None` for the last chunk."""
        if not self.cutting.chunk_seconds:
            samples = np.concatenate([np.zeros(0, np.float32), *blocks])
            yield from [(Chunk(0, len(samples)), samples, None)] if len(samples) else []
            return
        seconds, overlap = self.cutting.chunk_seconds, self.cutting.overlap
        chunker = Chunker(self.rate, chunk_seconds=seconds, overlap_seconds=overlap, step=self.step)
        for block in blocks:
            for start in range(0, len(block), self.rate):
                # A second of sound completes at most one chunk, or a few very short ones.
                found = list(chunker.push(block[start : start + self.rate]))
                starts = [chunk.start for chunk, _ in found[1:]] + [chunker.start]
                for (chunk, samples), following in zip(found, starts, strict=False):
                    yield chunk, samples, following // self.step
        for chunk, samples in chunker.flush():
            yield chunk, samples, None

    def _words(self, log_probs: np.ndarray, first_frame: int) -> list[Word]:
        tokens = self.decode(log_probs) if len(log_probs) else []
        tokens = at_temperature(tokens, log_probs, self.temperature)
        moved = [token._replace(start=token.start + first_frame, stop=token.stop + first_frame) for token in tokens]
        return words_of(moved, self.tokenizer)


def check_settings(model: PreTrainedModel) -> None:
    """Raises ValueError where the model's configuration has settings that would give wrong words or confidences."""
    temperature, threshold = word_temperature(model), abstention_threshold(model)
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise ValueError(f"word_temperature must be a positive number, got {temperature!r}.")
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ValueError(f"abstention_threshold must be a confidence in [0, 1], got {threshold!r}.")
    ratio, size = getattr(model.config, "inputs_to_logits_ratio", 1), model.config.vocab_size
    if not isinstance(ratio, int) or ratio < 1:
        raise ValueError(f"inputs_to_logits_ratio must be a number of samples, got {ratio!r}.")
    if blank_id(model) not in range(size):
        raise ValueError(f"pad_token_id, the blank, must be in the vocabulary of {size}, got {blank_id(model)!r}.")


def word_temperature(model: PreTrainedModel) -> float:
    """Temperature of the model's word confidences, fitted after training; 1 if there is none."""
    return getattr(model.config, "word_temperature", 1.0)


def abstention_threshold(model: PreTrainedModel) -> float:
    """Confidence below which the model's words are marked, chosen after training; 0 if there is none."""
    return getattr(model.config, "abstention_threshold", 0.0)


def vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The model's tokens in index order; tokens that the tokenizer lacks are named `<unused0>` and so on."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(model.config.vocab_size)))
    return [f"<unused{index}>" if piece is None else piece for index, piece in enumerate(pieces)]


def samples_per_frame(model: PreTrainedModel, feature_extractor: Any) -> int:
    """
    Number of samples per frame of a CTC model.

    Raises:
        TypeError: the model's configuration does not have it.
    """
    config = model.config
    if hasattr(config, "inputs_to_logits_ratio"):
        return int(config.inputs_to_logits_ratio)
    factor = getattr(getattr(config, "encoder_config", None), "subsampling_factor", None)
    hop = getattr(feature_extractor, "hop_length", None)
    if factor is None or hop is None:
        raise TypeError(f"The configuration of {type(model).__name__} does not say how many samples a frame has.")
    return factor * hop


@dataclass(frozen=True)
class Search:
    """
    The pipeline's settings of decoding.

    Args:
        decoder: `greedy` or `beam`.
        lm: A KenLM file (ARPA or binary), over words or over the model's tokens.
        lexicon: Words, or a text file with one word per line; by default the words of an ARPA file over words.
        hotwords: Pairs of a single word and its bonus in the score.
        beam_width, lm_weight, word_score: See `BeamSettings`; `None` takes its defaults.

    Raises:
        ValueError: the decoder is unknown, or fields of the beam search are set with `greedy`.
    """

    decoder: str = "greedy"
    lm: str | None = None
    lexicon: str | tuple[str, ...] | None = None
    hotwords: tuple[tuple[str, float], ...] = ()
    beam_width: int | None = None
    lm_weight: float | None = None
    word_score: float | None = None

    def __post_init__(self):
        if self.decoder not in ("greedy", "beam"):
            raise ValueError(f"decoder must be 'greedy' or 'beam', got {self.decoder!r}.")
        given = [name for name in SEARCH_FIELDS[1:] if getattr(self, name) not in (None, ())]
        if given and self.decoder == "greedy":
            raise ValueError(f"{', '.join(given)} can be used with decoder='beam' only.")
        if self.beam_width is not None and self.beam_width < 1:
            raise ValueError(f"beam_width must be 1 or more, got {self.beam_width}.")

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Search":
        """A search from a caller's arguments: paths, lists and mappings."""
        given, lexicon, words = dict(given), given.get("lexicon"), given.get("hotwords") or ()
        if lexicon is not None:
            given["lexicon"] = str(lexicon) if isinstance(lexicon, str | Path) else tuple(lexicon)
        if isinstance(words, str):
            raise ValueError(f"hotwords must be a list of words, got {words!r}.")
        pairs = words.items() if hasattr(words, "items") else ((word, HOT_WORD_SCORE) for word in words)
        given["hotwords"] = tuple((word, float(score)) for word, score in pairs)
        if wrong := [word for word, _ in given["hotwords"] if len(word.split()) != 1]:
            raise ValueError(f"hotwords are single words; give those of {wrong[0]!r} one by one.")
        if given.get("lm") is not None:
            given["lm"] = str(given["lm"])
        return cls(**given)

    @cached_property
    def settings(self) -> BeamSettings:
        """Settings of the beam search."""
        given = {"beam_size": self.beam_width, "lm_weight": self.lm_weight, "word_score": self.word_score}
        return BeamSettings(**{name: value for name, value in given.items() if value is not None})

    def decode(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[np.ndarray], list[Token]]:
        """
        A function from log-probabilities `(frames, vocabulary)` to tokens.

        Raises:
            ImportError: the beam search's libraries are not installed.
            FileNotFoundError: the language model or the lexicon does not exist.
            ValueError: the language model or the lexicon does not fit the vocabulary.
        """
        blank = blank_id(model)
        if self.decoder == "greedy":
            return lambda log_probs: best_tokens(log_probs, blank)
        beam = self.beam(model, tokenizer)
        return lambda log_probs: beam.decode(log_probs)[0].tokens

    def beam(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> BeamDecoder:
        """The beam decoder; raises the errors of `decode`."""
        pieces = vocabulary(model, tokenizer)
        return BeamDecoder(
            pieces,
            blank_id(model),
            delimiter=word_delimiter(tokenizer),
            spell=lambda word: tokenizer(word, add_special_tokens=False)["input_ids"],
            lexicon=self.words(pieces),
            language_model=self.lm,
            hot_words=dict(self.hotwords),
            settings=self.settings,
        )

    def words(self, pieces: list[str]) -> set[str] | None:
        """The lexicon's words, by default those of an ARPA file over words; `None` if there are neither."""
        if isinstance(self.lexicon, str):
            if not Path(self.lexicon).is_file():
                raise FileNotFoundError(f"{self.lexicon}: there is no such lexicon.")
            lines = Path(self.lexicon).read_text(encoding="utf-8").splitlines()
            return {line.split()[0] for line in lines if line.strip()}
        if self.lexicon is not None or self.lm is None or not Path(self.lm).is_file():
            return None if self.lexicon is None else set(self.lexicon)
        with Path(self.lm).open("rb") as file:
            is_arpa = b"\\data\\" in file.read(4096)
        known = words_of_arpa(self.lm) if is_arpa else set()
        return known if known - set(pieces) else None


SEARCH_FIELDS = tuple(Search.__dataclass_fields__)

__all__ = [
    "SEARCH_FIELDS",
    "Cutting",
    "Recogniser",
    "Search",
    "abstention_threshold",
    "check_settings",
    "samples_per_frame",
    "vocabulary",
    "word_temperature",
]
