"""Hot words, which a beam search prefers: language models of flashlight-text that wrap another one and add bonuses."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any


def words_with_hot_words(inner: Any, weight: float, bonuses: Sequence[float]) -> Any:
    """
    A language model over words that adds a bonus to some of them.

    Args:
        inner: A language model of flashlight-text over the same words.
        weight: Weight of the inner model's scores.
        bonuses: Bonus of each word, in index order.
    """

    class HotWords(_decoder().LM):
        def start(self, start_with_nothing: bool) -> Any:
            return inner.start(start_with_nothing)

        def score(self, state: Any, index: int) -> tuple[Any, float]:
            after, score = inner.score(state, index)
            return after, weight * score + bonuses[index]

        def finish(self, state: Any) -> tuple[Any, float]:
            after, score = inner.finish(state)
            return after, weight * score

    return HotWords()


def tokens_with_hot_words(
    inner: Any, weight: float, pieces: Sequence[str], delimiter: str, hot_words: Mapping[str, float]
) -> Any:
    """
    A language model over tokens that adds a bonus to words.

    A beginning of a hot word already gets a share of the bonus for each letter, so that the search does not drop it.
    The share is subtracted again if the word ends differently.

    Args:
        inner: A language model of flashlight-text over the same tokens.
        weight: Weight of the inner model's scores.
        pieces: Tokens in index order.
        delimiter: A separate token, or the beginning of a word's first token.
        hot_words: NFC word -> bonus.
    """
    decoder = _decoder()
    shares = prefix_shares(hot_words)

    class HotWords(decoder.LM):
        def start(self, start_with_nothing: bool) -> Any:
            state = decoder.LMState()
            self.known = {state: (inner.start(start_with_nothing), "")}
            return state

        def score(self, state: Any, index: int) -> tuple[Any, float]:
            before, begun = self.known[state]
            after, score = inner.score(before, index)
            word, bonus = continued(begun, pieces[index])
            child = state.child(index)
            self.known.setdefault(child, (after, word))
            return child, weight * score + bonus

        def finish(self, state: Any) -> tuple[Any, float]:
            before, begun = self.known[state]
            return state, weight * inner.finish(before)[1] + settled(begun)

    def continued(begun: str, piece: str) -> tuple[str, float]:
        ended = piece.startswith(delimiter)
        bonus = settled(begun) if ended else -shares.get(spelled(begun), 0.0)
        word = piece.removeprefix(delimiter) if ended else begun + piece
        return word, bonus + shares.get(spelled(word), 0.0)

    def settled(begun: str) -> float:
        return hot_words.get(spelled(begun), 0.0) - shares.get(spelled(begun), 0.0)

    return HotWords()


def spelled(word: str) -> str:
    """The word in NFC, the form of hot words, whatever units the vocabulary has."""
    return unicodedata.normalize("NFC", word)


def prefix_shares(hot_words: Mapping[str, float]) -> dict[str, float]:
    """Beginning of a hot word -> its share of the bonus by length; the largest share if several words begin so."""
    shares: dict[str, float] = {}
    for word, bonus in hot_words.items():
        letters = unicodedata.normalize("NFD", word)
        for length in range(1, len(letters) + 1):
            begun = spelled(letters[:length])
            shares[begun] = max(shares.get(begun, 0.0), bonus * length / len(letters))
    return shares


def _decoder() -> Any:
    try:
        from flashlight.lib.text import decoder
    except ImportError as error:
        raise ImportError("Beam search needs flashlight-text: pip install 'hf_fer[lm]'.") from error
    return decoder


__all__ = ["prefix_shares", "spelled", "tokens_with_hot_words", "words_with_hot_words"]
