"""A linear classifier of languages over hashed character n-grams.

As in fastText (Joulin et al. 2017, arXiv 1607.01759), n-grams are hashed and need no vocabulary; each n-gram has one
weight per language instead of an embedding. Shapes use B (batch), T (tokens), N (n-grams of a text), C (languages).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_language_id import LanguageIdNgramConfig

MODULUS = 2**31 - 1
"""A prime; products of two numbers below it fit into 64 bits."""
BASE, MIX = 1_000_003, 1_664_525_003
"""Multipliers of the polynomial hash, and of the step from it to a bucket."""


def hashed_ngrams(input_ids: Tensor, present: Tensor, boundary: Tensor, max_ngram: int, buckets: int) -> Tensor:
    """
    Buckets of all n-grams of 1 to `max_ngram` tokens.

    Args:
        input_ids: Token ids, `(B, T)`.
        present: False for padding, `(B, T)`.
        boundary: True for tokens between words, `(B, T)`.
        max_ngram: Length of the longest n-grams, in tokens.
        buckets: Number of rows of the weight table.

    Returns:
        Bucket of each n-gram, `(B, N)`; -1 for windows with padding, with a boundary inside, or of boundaries only.
    """
    length, found = input_ids.shape[1], []
    state = torch.zeros_like(input_ids)
    inside = torch.zeros_like(boundary)
    for size in range(1, min(max_ngram, length) + 1):
        count = length - size + 1
        state = (state[:, :count] * BASE + input_ids[:, size - 1 :] + 1) % MODULUS
        if size > 2:
            inside = inside[:, :count] | boundary[:, size - 2 : length - 1]
        valid = present[:, :count] & present[:, size - 1 :] & ~inside[:, :count]
        if size <= 2:
            valid = valid & ~(boundary[:, :count] & boundary[:, size - 1 :])
        bucket = (state + size * BASE) % MODULUS * MIX % MODULUS % buckets
        found.append(bucket.masked_fill(~valid, -1))
    return torch.cat(found, dim=1)


class LanguageIdNgramPreTrainedModel(PreTrainedModel):
    """Weight initialisation, and the class attributes that transformers reads."""

    config: LanguageIdNgramConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, LanguageIdNgramForSequenceClassification):
            nn.init.normal_(module.ngrams.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)
            nn.init.ones_(module.scale)


class LanguageIdNgramForSequenceClassification(LanguageIdNgramPreTrainedModel):
    """One weight per hashed n-gram and language; the logits are their scaled sum over a text."""

    def __init__(self, config: LanguageIdNgramConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ngrams = nn.Embedding(config.num_buckets, config.num_labels)
        self.bias = nn.Parameter(torch.zeros(config.num_labels))
        self.scale = nn.Parameter(torch.ones(()))
        self.post_init()

    def buckets(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Buckets of the n-grams of texts, `(B, T)` -> `(B, N)`; see `hashed_ngrams`."""
        config = self.config
        present = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        ends = input_ids.new_tensor(config.boundary_token_ids)
        boundary = torch.isin(input_ids, ends)
        if len(ends):  # with one id for all boundaries, a word has the same n-grams anywhere in a text
            input_ids = torch.where(boundary, ends[0], input_ids)
        return hashed_ngrams(input_ids, present, boundary, config.max_ngram, config.num_buckets)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of weights; its rows are buckets of n-grams, not tokens."""
        return self.ngrams

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.ngrams = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): Token ids; a token is a character.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 0 for padding.
            labels (`torch.LongTensor` of shape `(B,)`, *optional*): Class of each text; -100 is ignored.

        Returns:
            `loss`, if labels are given, and `logits` `(B, C)`. The model has no hidden states or attentions.
        """
        found = self.buckets(input_ids, attention_mask)
        counted = found >= 0
        if self.training and self.config.ngram_dropout:
            counted = counted & (torch.rand(found.shape, device=found.device) >= self.config.ngram_dropout)
        weight = self.ngrams.weight
        shares = counted.to(weight.dtype)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1) ** self.config.length_power
        total = F.embedding_bag(found.clamp(min=0), weight, mode="sum", per_sample_weights=shares)
        logits = self.scale * total + self.bias
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


__all__ = ["LanguageIdNgramForSequenceClassification", "LanguageIdNgramPreTrainedModel", "hashed_ngrams"]
