"""Beam search over the frames of a CTC model, by flashlight-text, with lexicon, n-gram model and hot words.

All scores are natural logarithms of probabilities. flashlight-text proposes transcripts, and the greedy transcript is
added. Each proposal then gets its exact score: the acoustic score, summed over all of its alignments by the CTC
forward algorithm (Graves et al. 2006), plus the language model's. So the result never scores below the greedy one.
"""

import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import ctc_loss
from torchaudio.functional import forced_align

from .alignment_speech_to_text import WORD_BEGIN, Token, best_tokens
from .hotwords_speech_to_text import tokens_with_hot_words, words_with_hot_words

LN_10 = math.log(10)
UNKNOWN = "<unk>"
SCORED_TOGETHER = 32
"""Number of proposals that are scored in one call; each needs a copy of the log-probabilities."""


@dataclass(frozen=True)
class BeamSettings:
    """
    Width of the search, and weights of scores other than the acoustic one.

    Args:
        beam_size: Number of hypotheses that are kept from frame to frame.
        beam_threshold: Hypotheses that score this much below the best are dropped; natural logarithm.
        tokens_per_frame: Number of most probable tokens that continue a hypothesis; all if `None`.
        lm_weight: Weight of the language model's natural log-probability.
        word_score: Added for each word; a positive value counters deleted words.
        unknown_score: Added for each word that is not in the lexicon.
    """

    beam_size: int = 64
    beam_threshold: float = 30.0
    tokens_per_frame: int | None = 24
    lm_weight: float = 0.5
    word_score: float = 0.0
    unknown_score: float = -5.0


class Hypothesis(NamedTuple):
    """
    One transcript of a recording.

    Args:
        ids: Its tokens, without blanks.
        text: NFC, with single spaces between words.
        score: The sum by which hypotheses are ranked: acoustic score, weighted language score, scores of words.
        acoustic_score: Natural log-probability of the tokens given the sound, over all alignments.
        language_score: Natural log-probability of the words, or of the tokens, by the language model; 0 without one.
        tokens: The tokens on the most probable alignment, with frames, for `alignment_speech_to_text.words_of`.
    """

    ids: tuple[int, ...]
    text: str
    score: float
    acoustic_score: float
    language_score: float
    tokens: list[Token]


def collapse(path: Iterable[int], blank: int) -> tuple[int, ...]:
    """Collapse a path of one token per frame: equal neighbours become one token, and blanks are dropped."""
    return tuple(token for token, _ in groupby(path) if token != blank)


def acoustic_scores(log_probs: np.ndarray, proposals: Sequence[tuple[int, ...]], blank: int) -> list[float]:
    """
    Natural log-probability of each proposal, summed over its alignments.

    Args:
        log_probs: Natural logarithms `(frames, vocabulary)`.
        proposals: Token ids without blanks.
        blank: Index of the blank.

    Returns:
        One number per proposal; minus infinity if it needs more frames than there are.
    """
    if not len(log_probs):
        return [-math.inf if ids else 0.0 for ids in proposals]
    frames, scores = torch.as_tensor(log_probs, dtype=torch.float64), []
    for start in range(0, len(proposals), SCORED_TOGETHER):
        part = proposals[start : start + SCORED_TOGETHER]
        loss = ctc_loss(
            frames[:, None].repeat(1, len(part), 1),
            torch.tensor([token for ids in part for token in ids], dtype=torch.long),
            torch.full((len(part),), len(frames)),
            torch.tensor([len(ids) for ids in part]),
            blank=blank,
            reduction="none",
        )
        scores += (-loss).tolist()
    return scores


def align(log_probs: np.ndarray, ids: Sequence[int], blank: int) -> list[Token]:
    """
    The tokens of a transcript on its most probable alignment.

    Args:
        log_probs: Natural logarithms `(frames, vocabulary)`.
        ids: Token ids without blanks.
        blank: Index of the blank.

    Raises:
        ValueError: the tokens need more frames than there are.
    """
    if not ids:
        return []
    needed = len(ids) + sum(first == second for first, second in pairwise(ids))
    if needed > len(log_probs):
        raise ValueError(f"{len(ids)} tokens need {needed} frames, and there are {len(log_probs)}.")
    frames = torch.as_tensor(log_probs, dtype=torch.float32)[None]
    path = forced_align(frames, torch.tensor([list(ids)], dtype=torch.int32), blank=blank)[0][0].tolist()
    tokens, start = [], 0
    for token, run in groupby(path):
        stop = start + len(list(run))
        if token != blank:
            tokens.append(Token(token, start, stop, float(log_probs[start:stop, token].max())))
        start = stop
    return tokens


class BeamDecoder:
    """
    Searches for the most probable transcripts.

    Args:
        pieces: The vocabulary in index order.
        blank: Index of the blank.
        delimiter: The mark of a space: a separate token, or the beginning of a word's first token.
        spell: Function from a word to its token ids; required with a lexicon.
        lexicon: Words of the search. Without a lexicon every sequence of tokens is possible. Words outside it can
            still come from the greedy transcript and from the search without lexicon, each at `unknown_score`.
        language_model: A KenLM file (ARPA or binary), over words with a lexicon and over tokens without.
        hot_words: Word -> bonus that is added to the score, natural logarithm; about 1 to 10.
        settings: Settings of the search.

    Raises:
        ImportError: flashlight-text or kenlm is not installed.
        FileNotFoundError: the language model does not exist.
        ValueError: a lexicon comes without `spell`, or the vocabulary can spell none of its words; or the language
            model is over words without a lexicon, or over tokens with one.
    """

    def __init__(
        self,
        pieces: Sequence[str],
        blank: int,
        *,
        delimiter: str = WORD_BEGIN,
        spell: Callable[[str], Sequence[int]] | None = None,
        lexicon: Iterable[str] | None = None,
        language_model: str | Path | None = None,
        hot_words: Mapping[str, float] | None = None,
        settings: BeamSettings | None = None,
    ):
        self.flashlight = _flashlight()
        self.pieces, self.blank, self.delimiter = list(pieces), blank, delimiter
        self.settings = settings or BeamSettings()
        self.space = self.pieces.index(delimiter) if delimiter in self.pieces else -1
        self.starts_words = any(piece.startswith(delimiter) and piece != delimiter for piece in self.pieces)
        self.hot_words = {unicodedata.normalize("NFC", word): bonus for word, bonus in (hot_words or {}).items()}
        self.lexicon = None if lexicon is None else {unicodedata.normalize("NFC", word) for word in lexicon}
        if self.lexicon is not None:
            self.lexicon |= set(self.hot_words)
        self.model_path = None if language_model is None else str(language_model)
        if self.model_path and not Path(self.model_path).is_file():
            raise FileNotFoundError(f"{self.model_path}: there is no such language model.")
        self.model = _kenlm().Model(self.model_path) if self.model_path else None
        self._check_model()
        self._models: list[Any] = []
        self._free = self._free_decoder()
        self._bound = None if self.lexicon is None else self._lexicon_decoder(spell)

    def decode(self, log_probs: np.ndarray, count: int = 1) -> list[Hypothesis]:
        """
        The best transcripts of one recording, the best first.

        Args:
            log_probs: Natural logarithms `(frames, vocabulary)`, without padding.
            count: Largest number of transcripts.

        Raises:
            ValueError: another shape, or values that are not numbers.
        """
        log_probs = np.ascontiguousarray(log_probs, dtype=np.float32)
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.pieces):
            raise ValueError(f"log_probs must be (frames, {len(self.pieces)}), got {log_probs.shape}.")
        if np.isnan(log_probs).any() or (log_probs == np.inf).any():
            raise ValueError("log_probs has values that are not finite (NaN or infinity).")
        proposals = self._proposals(log_probs) if len(log_probs) else [()]
        acoustic = acoustic_scores(log_probs, proposals, self.blank)
        scored = [self._scored(ids, score) for ids, score in zip(proposals, acoustic, strict=True)]
        best = sorted(scored, key=lambda found: (-found.score, found.ids))[:count]
        return [found._replace(tokens=align(log_probs, found.ids, self.blank)) for found in best]

    def text(self, ids: Iterable[int]) -> str:
        """Tokens as NFC text with single spaces."""
        joined = "".join(self.pieces[index] for index in ids).replace(self.delimiter, " ")
        return unicodedata.normalize("NFC", " ".join(joined.split()))

    def score_of(self, log_probs: np.ndarray, ids: Sequence[int]) -> float:
        """The score of any tokens, by which `decode` ranks transcripts."""
        return self._scored(tuple(ids), acoustic_scores(log_probs, [tuple(ids)], self.blank)[0]).score

    def _check_model(self) -> None:
        """Raises ValueError for a model of tokens with a lexicon, or of words without: it would know no entry."""
        if self.model is None:
            return
        names = self.pieces if self.lexicon is None else self.lexicon
        if not any(name in self.model for name in names if name != UNKNOWN):
            kind, remedy = ("tokens", "give a lexicon") if self.lexicon is None else ("words", "leave the lexicon out")
            raise ValueError(f"{self.model_path}: knows none of the {kind}; {remedy}, or build it over {kind}.")

    def _proposals(self, log_probs: np.ndarray) -> list[tuple[int, ...]]:
        greedy = tuple(token.id for token in best_tokens(log_probs, self.blank))
        found = [greedy, *self._search(self._free, log_probs, False)]
        if self._bound is not None:
            found += self._spaced(self._search(self._bound, log_probs, self._space_apart()))
        return list(dict.fromkeys(found))

    def _spaced(self, proposals: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Each proposal with and without spaces around it, which the lexicon search does not distinguish."""
        if not self._space_apart():
            return list(proposals)
        space = (self.space,)
        found = []
        for ids in proposals:
            begun = ids[1:] if ids[:1] == space else ids
            core = begun[:-1] if begun[-1:] == space else begun
            found += [before + core + after for before in ((), space) for after in ((), space)]
        return found

    def _search(self, decoder: Any, log_probs: np.ndarray, ending: bool) -> list[tuple[int, ...]]:
        """The proposals of flashlight-text; with `ending`, a frame with probability 1 of a space is appended first."""
        finite = np.maximum(log_probs, np.float32(-1e4))
        if ending:
            last = np.full((1, finite.shape[1]), -1e4, np.float32)
            last[0, self.space] = 0.0
            finite = np.concatenate([finite, last])
        finite = np.ascontiguousarray(finite)
        results = decoder.decode(finite.ctypes.data, *finite.shape)
        # Paths of flashlight-text begin and end with an extra token.
        return [collapse(result.tokens[1 : 1 + len(log_probs)], self.blank) for result in results]

    def _scored(self, ids: tuple[int, ...], acoustic: float) -> Hypothesis:
        text, settings = self.text(ids), self.settings
        spoken = text.split()
        unknown = 0 if self.lexicon is None else sum(word not in self.lexicon for word in spoken)
        language = 0.0
        if self.model is not None:
            units = text if self.lexicon is not None else " ".join(self.pieces[index] for index in ids)
            language = self.model.score(units, bos=True, eos=True) * LN_10
        score = acoustic + settings.lm_weight * language + settings.word_score * len(spoken)
        score += settings.unknown_score * unknown + sum(self.hot_words.get(word, 0.0) for word in spoken)
        return Hypothesis(ids, text, score, acoustic, language, [])

    def _free_decoder(self) -> Any:
        """The search without lexicon; it uses a language model over tokens, but not one over words."""
        inner = self._model(self.pieces) if self.lexicon is None else self.flashlight.ZeroLM()
        weight = self.settings.lm_weight * LN_10
        if self.hot_words:
            inner = tokens_with_hot_words(inner, weight, self.pieces, self.delimiter, self.hot_words)
            weight = 1.0
        options = self.flashlight.LexiconFreeDecoderOptions(**self._options(), sil_score=0.0, lm_weight=weight)
        # "Silence" is set to -1, no token's index: with the space's, the search would drop a space in the first frame.
        return self.flashlight.LexiconFreeDecoder(options, self._held(inner), -1, self.blank, [])

    def _lexicon_decoder(self, spell: Callable[[str], Sequence[int]] | None) -> Any:
        if spell is None:
            raise ValueError("a lexicon needs 'spell', which gives a word's token ids.")
        names = sorted(self.lexicon)
        model, weight = self._model(names), self.settings.lm_weight * LN_10
        if self.hot_words:
            model = words_with_hot_words(model, weight, [self.hot_words.get(name, 0.0) for name in names])
            weight = 1.0
        options = self.flashlight.LexiconDecoderOptions(
            **self._options(),
            lm_weight=weight,
            word_score=self.settings.word_score,
            unk_score=-math.inf,
            sil_score=0.0,
        )
        trie = self._trie(names, self._held(model), spell)
        return self.flashlight.LexiconDecoder(options, trie, model, self.space, self.blank, len(names), [], False)

    def _trie(self, names: Sequence[str], model: Any, spell: Callable[[str], Sequence[int]]) -> Any:
        """A trie of the words' spellings, with their scores at the beginning of a sentence for look-ahead."""
        trie, start, spelled = self.flashlight.Trie(len(self.pieces), self.space), model.start(False), 0
        for index, name in enumerate(names):
            ids = list(spell(name))
            if not ids or any(self.pieces[token] == UNKNOWN for token in ids):
                continue  # the vocabulary, and so the model, cannot write this word
            spelled += 1
            if self._space_apart():
                ids.append(self.space)
            trie.insert(ids, index, model.score(start, index)[1])
        if not spelled:
            raise ValueError("the vocabulary can spell no word of the lexicon.")
        trie.smear(self.flashlight.SmearingMode.MAX)
        return trie

    def _space_apart(self) -> bool:
        """Whether a space is a separate token, not the beginning of a word's first token."""
        return self.space >= 0 and not self.starts_words

    def _held(self, model: Any) -> Any:
        """Keeps a reference to the model, because flashlight-text does not prevent its garbage collection."""
        self._models.append(model)
        return model

    def _options(self) -> dict[str, Any]:
        return {
            "beam_size": self.settings.beam_size,
            "beam_size_token": min(self.settings.tokens_per_frame or len(self.pieces), len(self.pieces)),
            "beam_threshold": self.settings.beam_threshold,
            "log_add": True,
            "criterion_type": self.flashlight.CriterionType.CTC,
        }

    def _model(self, names: Sequence[str]) -> Any:
        """flashlight's language model over names in index order; one that always scores 0 if there is no file."""
        if self.model_path is None:
            return self.flashlight.ZeroLM()
        try:
            from flashlight.lib.text.decoder.kenlm import KenLM
            from flashlight.lib.text.dictionary import Dictionary
        except ImportError as error:
            raise ImportError("A language model needs kenlm: pip install 'hf_fer[lm]'.") from error
        dictionary = Dictionary()
        for name in [*names, UNKNOWN]:
            if not dictionary.contains(name):
                dictionary.add_entry(name)
        return KenLM(self.model_path, dictionary)


def words_of_arpa(path: str | Path) -> set[str]:
    """The words of an ARPA file, for a lexicon; raises ValueError if it has none."""
    words, inside = set(), False
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            line = line.rstrip("\n")
            if line.startswith("\\"):
                if inside:
                    break
                inside = line == "\\1-grams:"
            elif inside and line:
                words.add(line.split("\t")[1])
    words -= {"<s>", "</s>", UNKNOWN}
    if not words:
        raise ValueError(f"{path}: has no 1-grams; a lexicon can be read from ARPA files only.")
    return words


def _flashlight() -> Any:
    try:
        from flashlight.lib.text import decoder
    except ImportError as error:
        raise ImportError("Beam search needs flashlight-text: pip install 'hf_fer[lm]'.") from error
    return decoder


def _kenlm() -> Any:
    try:
        import kenlm
    except ImportError as error:
        raise ImportError("A language model needs kenlm: pip install 'hf_fer[lm]'.") from error
    return kenlm


__all__ = ["BeamDecoder", "BeamSettings", "Hypothesis", "acoustic_scores", "align", "collapse", "words_of_arpa"]
