"""Configuration of the small language identification model on character n-grams."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class LanguageIdNgramConfig(PreTrainedConfig):
    r"""
    Configuration of [`LanguageIdNgramForSequenceClassification`].

    Args:
        vocab_size (`int`, *optional*, defaults to 256):
            Number of the tokenizer's characters and special tokens.
        num_ngrams (`int`, *optional*, defaults to 65536):
            Rows of the table of n-gram weights; training sets it to the number of n-grams that it keeps.
        max_ngram (`int`, *optional*, defaults to 6):
            Length of the longest n-grams, in characters.
        boundary_token_ids (`list[int]`, *optional*):
            Tokens between words: the space, and the begin and end of a text. An n-gram may begin or end with one, and
            has none inside, so that it does not cross words.
        length_power (`float`, *optional*, defaults to 0.5):
            The sum of an n-gram's weights is divided by their number to this power.
        ngram_dropout (`float`, *optional*, defaults to 0.0):
            Fraction of a text's n-grams that are dropped in training.
        max_position_embeddings (`int`, *optional*, defaults to 4096):
            Longest input in tokens; the model itself has no limit.
        initializer_range (`float`, *optional*, defaults to 0.02):
            Standard deviation of a new table's weights; training starts from counts instead.
    """

    model_type = "language_id_ngram"
    keys_to_ignore_at_inference: ClassVar[list[str]] = []

    vocab_size: int = 256
    num_ngrams: int = 65536
    max_ngram: int = 6
    boundary_token_ids: list[int] | None = None
    length_power: float | int = 0.5
    ngram_dropout: float | int = 0.0
    max_position_embeddings: int = 4096
    pad_token_id: int | None = 1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        self.boundary_token_ids = self.boundary_token_ids or []
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Check the ranges of sizes and rates."""
        if self.num_ngrams < 1 or self.max_ngram < 1:
            raise ValueError(f"num_ngrams and max_ngram must be at least 1, got {self.num_ngrams}, {self.max_ngram}.")
        if not 0 <= self.ngram_dropout < 1:
            raise ValueError(f"ngram_dropout must be in [0, 1), got {self.ngram_dropout}.")


__all__ = ["LanguageIdNgramConfig"]
