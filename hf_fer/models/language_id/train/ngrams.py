"""The n-gram model's tokenizer, and its initial weights, which come from counts and which training improves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..configuration_language_id import LanguageIdNgramConfig
from ..modeling_language_id import LanguageIdNgramForSequenceClassification, text_keys
from .scratch import SPECIAL_TOKENS, plain_normalizer

SPACE = " "
TEXTS_AT_ONCE = 512
ROWS_AT_ONCE = 2**15


def character_tokenizer(texts: Iterable[str], max_length: int) -> PreTrainedTokenizerFast:
    """
    A tokenizer whose tokens are characters, normalised by `scratch.plain_normalizer`.

    Args:
        texts: Texts of the training split only; characters that they lack become the unknown token.
        max_length: Characters per window, including the tokens for begin and end.
    """
    normalizer = plain_normalizer()
    characters = sorted({character for text in texts for character in normalizer.normalize_str(text)} | {SPACE})
    names = [*SPECIAL_TOKENS.values(), *characters]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL_TOKENS["unk_token"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    start, end = SPECIAL_TOKENS["bos_token"], SPECIAL_TOKENS["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocabulary[start]), (end, vocabulary[end])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL_TOKENS)


def ngram_config(tokenizer: PreTrainedTokenizerBase, max_length: int, **fields) -> LanguageIdNgramConfig:
    """The configuration of a new model for a tokenizer from `character_tokenizer`."""
    ends = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(SPACE)]
    return LanguageIdNgramConfig(
        vocab_size=len(tokenizer),
        boundary_token_ids=ends,
        max_position_embeddings=max(max_length, 512) + 2,
        pad_token_id=tokenizer.pad_token_id,
        **fields,
    )


@dataclass(frozen=True)
class Counts:
    """
    N-grams of one size in the training split.

    Args:
        keys: Sorted keys `(n-grams,)`. A boundary alone, which the model does not count, has -1.
        counts: Occurrences by language, `(n-grams, languages)`.
        prefix, suffix: Place of the n-gram without its last, and without its first token in the counts of one size
            less; `None` for single tokens.
    """

    keys: np.ndarray
    counts: csr_matrix
    prefix: np.ndarray | None
    suffix: np.ndarray | None


def count_ngrams(
    config: LanguageIdNgramConfig, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], labels: Sequence[int]
) -> list[Counts]:
    """
    Count the n-grams of texts by language.

    Memory grows with the characters of all texts: about 100 bytes for each at the peak.

    Args:
        config: Configuration of the model to be; `num_ngrams` is not read.
        tokenizer: Tokenizer from `character_tokenizer`. Texts longer than its `model_max_length` are cut into pieces.
        texts, labels: Normalised texts of the training split, and their classes.

    Returns:
        The counts of n-grams of 1 to `max_ngram` tokens, by their size.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    batches = []
    for begin in range(0, len(order), TEXTS_AT_ONCE):
        chosen = order[begin : begin + TEXTS_AT_ONCE]
        batch = tokenizer(
            [texts[index] for index in chosen],
            padding=True,
            truncation=True,
            return_overflowing_tokens=True,
            return_tensors="pt",
        )
        own = torch.tensor([labels[index] for index in chosen])[batch["overflow_to_sample_mapping"]]
        batches.append((batch["input_ids"].to(torch.int32), batch["attention_mask"].bool(), own))
    found: list[Counts] = []
    for size in range(1, config.max_ngram + 1):
        parts = [_with_neighbours(config, size, *batch) for batch in batches]
        keys, prefixes, suffixes, own = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
        if not len(keys):
            break
        keys, first, places = np.unique(keys, return_index=True, return_inverse=True)
        shape = (len(keys), config.num_labels)
        counts = csr_matrix((np.ones(len(places), np.float32), (places, own)), shape=shape)
        shorter = [np.searchsorted(found[-1].keys, part[first]) for part in (prefixes, suffixes)] if found else None
        found.append(Counts(keys, counts, *(shorter or (None, None))))
    return found


def _with_neighbours(
    config: LanguageIdNgramConfig, size: int, input_ids: Tensor, present: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys of a batch's n-grams of one size, those of their prefixes and suffixes, and the languages; all flat."""
    by_size = text_keys(config, input_ids.long(), present)[:size]
    if len(by_size) < size:
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing, nothing, nothing
    keys, shorter = by_size[-1], by_size[-2] if size > 1 else by_size[-1]
    valid = keys >= 0 if size > 1 else present
    prefixes, suffixes = (shorter[:, :-1], shorter[:, 1:]) if size > 1 else (shorter, shorter)
    return keys[valid], prefixes[valid], suffixes[valid], labels[:, None].expand_as(keys)[valid]


@dataclass(frozen=True)
class Start:
    """
    How counts become weights.

    Args:
        discount: Subtracted from each count, and given to the shorter n-gram's probability.
        smoothing: Added to each count, for naive Bayes.
        share: Weight of naive Bayes beside the language model.
        min_counts: Fewest occurrences of n-grams of 1, 2, ... tokens that are kept; the last is for longer ones, too.
    """

    discount: float
    smoothing: float
    share: float
    min_counts: Sequence[int]


def start_weights(counts: Sequence[Counts], start: Start) -> tuple[np.ndarray, np.ndarray]:
    """
    Weights whose sum over a text is its log-likelihood under a character language model of each language.

    The model is interpolated absolute discounting (Ney, Essen and Kneser 1994, "On structuring probabilistic
    dependences in stochastic language modelling"). An n-gram's weight is the logarithm by which its last character is
    more probable after the whole n-gram than after one character less, so that the sum over the n-grams that end at
    a character telescopes to the longest known one. `share` times the weight of multinomial naive Bayes, the logarithm
    of the n-gram's own frequency, is added. The mean over languages is subtracted, which changes no decision.

    Returns:
        Sorted keys `(rows,)` and weights `(rows, languages)` of the n-grams that are frequent enough.
    """
    kept, lower = [], None
    for size, own in enumerate(counts, 1):
        weights, lower = _weights(own, lower, start)
        enough = np.asarray(own.counts.sum(axis=1)).ravel() >= start.min_counts[min(size, len(start.min_counts)) - 1]
        enough &= own.keys >= 0
        kept.append((own.keys[enough], weights[enough]))
    keys = np.concatenate([part for part, _ in kept])
    order = np.argsort(keys)
    table = np.empty((len(keys), counts[0].counts.shape[1]), np.float32)
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    begin = 0
    for part, weights in kept:
        table[places[begin : begin + len(part)]] = weights
        begin += len(part)
    return keys[order], table


def _weights(own: Counts, lower: np.ndarray | None, start: Start) -> tuple[np.ndarray, np.ndarray]:
    """Weights and probabilities `(n-grams, languages)` of one size; `lower` has those of one size less."""
    totals = np.asarray(own.counts.sum(axis=0), np.float32)
    if lower is None:
        contexts, kinds = csr_matrix(totals), csr_matrix(np.asarray((own.counts > 0).sum(axis=0), np.float32))
        lower = np.full((1, totals.shape[1]), 1 / len(own.keys), np.float32)
        prefix = suffix = np.zeros(len(own.keys), dtype=np.int64)
    else:
        prefix, suffix = own.prefix, own.suffix
        ones = np.ones(len(prefix), np.float32)
        by_prefix = csr_matrix((ones, (prefix, np.arange(len(prefix)))), shape=(len(lower), len(prefix)))
        contexts, kinds = by_prefix @ own.counts, by_prefix @ (own.counts > 0).astype(np.float32)
    weights = np.empty(own.counts.shape, np.float32)
    probability = np.empty(own.counts.shape, np.float32)
    for begin in range(0, len(own.keys), ROWS_AT_ONCE):
        rows = slice(begin, begin + ROWS_AT_ONCE)
        count, shorter = own.counts[rows].toarray(), lower[suffix[rows]]
        context, kind = contexts[prefix[rows]].toarray(), kinds[prefix[rows]].toarray()
        seen = context > 0
        context = np.where(seen, context, 1)
        likely = np.maximum(count - start.discount, 0) / context
        likely += np.where(seen, start.discount * kind / context, 1) * shorter
        gained = np.log(likely) - (np.log(shorter) if own.prefix is not None else 0)
        bayes = np.log(count + start.smoothing) - np.log(totals + start.smoothing)
        weights[rows] = gained - gained.mean(axis=1, keepdims=True)
        weights[rows] += start.share * (bayes - bayes.mean(axis=1, keepdims=True))
        probability[rows] = likely
    return weights, probability


@torch.no_grad()
def fill(model: LanguageIdNgramForSequenceClassification, keys: np.ndarray, weights: np.ndarray) -> None:
    """Give a model of `num_ngrams` rows the keys and weights of `start_weights`."""
    model.keys.copy_(torch.from_numpy(keys))
    model.ngrams.weight.copy_(torch.from_numpy(weights))
