"""The n-gram model's tokenizer, and its initial weights: those of naive Bayes, which training improves."""

from collections.abc import Iterable, Sequence

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..configuration_language_id import LanguageIdNgramConfig
from ..modeling_language_id import LanguageIdNgramForSequenceClassification
from .scratch import SPECIAL_TOKENS, plain_normalizer

SPACE = " "
TEXTS_AT_ONCE = 512


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


@torch.no_grad()
def start_from_counts(
    model: LanguageIdNgramForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    labels: Sequence[int],
    smoothing: float,
) -> None:
    """
    Set the weights to those of multinomial naive Bayes: the log-probability of each n-gram in a language.

    The mean over languages is subtracted, which changes no prediction. N-grams that occur in no text get a weight of
    0; with smoothed counts they would favour the languages with the fewest n-grams.

    Args:
        model: Model whose table of weights is filled.
        tokenizer: Tokenizer from `character_tokenizer`.
        texts, labels: Normalised texts of the training split, and their classes.
        smoothing: Number that is added to each count.
    """
    classes, size = model.config.num_labels, model.config.num_buckets
    counts = torch.zeros(size * classes, dtype=torch.float64)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for begin in range(0, len(order), TEXTS_AT_ONCE):
        chosen = order[begin : begin + TEXTS_AT_ONCE]
        batch = tokenizer([texts[index] for index in chosen], padding=True, truncation=True, return_tensors="pt")
        found = model.buckets(batch["input_ids"], batch["attention_mask"])
        own = torch.tensor([labels[index] for index in chosen])[:, None].expand_as(found)
        counts += torch.bincount((found * classes + own)[found >= 0], minlength=len(counts))
    counts = counts.view(size, classes)
    smoothed = counts + smoothing
    weights = smoothed.log() - smoothed.sum(dim=0).log()
    weights = weights - weights.mean(dim=1, keepdim=True)
    model.ngrams.weight.copy_(weights * (counts.sum(dim=1, keepdim=True) > 0))
