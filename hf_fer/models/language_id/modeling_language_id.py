"""A linear classifier of languages over character n-grams.

The n-grams are those of fastText (Joulin et al. 2017, arXiv 1607.01759), each with one weight per language instead of
an embedding. They are known by 62-bit keys instead of hash buckets: the rows of the table are kept for n-grams that
were counted, and an n-gram without a row counts for nothing.

Shapes use B (batch), T (tokens), N (n-grams of a text), C (languages).
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

MULTIPLIER = 6_364_136_223_846_793_005
"""Multiplier of the polynomial keys: odd, and large enough that short n-grams fill all 64 bits, at which it wraps."""
KEY_BITS = 2**62 - 1


def ngram_keys(input_ids: Tensor, present: Tensor, boundary: Tensor, max_ngram: int) -> list[Tensor]:
    """
    Keys of all n-grams of 1 to `max_ngram` tokens.

    Args:
        input_ids: Token ids, `(B, T)`.
        present: False for padding, `(B, T)`.
        boundary: True for tokens between words, `(B, T)`.
        max_ngram: Length of the longest n-grams, in tokens.

    Returns:
        For each size a tensor `(B, T - size + 1)` with the key of the n-gram that begins at each token; -1 for what is
        no n-gram: windows with padding, with a boundary inside, or of boundaries only.
    """
    length, found = input_ids.shape[1], []
    state = torch.zeros_like(input_ids)
    inside = torch.zeros_like(boundary)
    for size in range(1, min(max_ngram, length) + 1):
        count = length - size + 1
        state = state[:, :count] * MULTIPLIER + input_ids[:, size - 1 :] + 1
        if size > 2:
            inside = inside[:, :count] | boundary[:, size - 2 : length - 1]
        valid = present[:, :count] & present[:, size - 1 :] & ~inside[:, :count]
        if size <= 2:
            valid = valid & ~(boundary[:, :count] & boundary[:, size - 1 :])
        found.append((state & KEY_BITS).masked_fill(~valid, -1))
    return found


def rows_of(keys: Tensor, table: Tensor) -> Tensor:
    """
    Rows of keys in a sorted table `(rows,)`, -1 for keys that it does not have; of the shape of `keys`.

    A binary search by indexing, because `torch.searchsorted` cannot be exported to ONNX.
    """
    last = len(table) - 1
    low = torch.zeros_like(keys)
    for bit in reversed(range(max(last, 1).bit_length())):
        higher = (low + 2**bit).clamp(max=last)
        low = torch.where(table[higher] <= keys, higher, low)
    return torch.where(table[low] == keys, low, -1)


def text_keys(config: LanguageIdNgramConfig, input_ids: Tensor, attention_mask: Tensor | None = None) -> list[Tensor]:
    """Keys of the n-grams of texts `(B, T)`, by their size; see `ngram_keys`."""
    present = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    ends = input_ids.new_tensor(config.boundary_token_ids)
    boundary = torch.isin(input_ids, ends)
    if len(ends):  # a word at the end of a text has the n-grams that it has inside
        input_ids = torch.where(boundary, ends[0], input_ids)
    return ngram_keys(input_ids, present, boundary, config.max_ngram)


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
            # A new model has rows for single tokens; those that are left over can never be found.
            tokens = torch.arange(self.config.vocab_size)[: self.config.num_ngrams] + 1
            module.keys.copy_(KEY_BITS - torch.arange(self.config.num_ngrams).flip(0))
            module.keys[: len(tokens)] = tokens


class LanguageIdNgramForSequenceClassification(LanguageIdNgramPreTrainedModel):
    """One weight per n-gram and language; the logits are their scaled sum over a text."""

    def __init__(self, config: LanguageIdNgramConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.ngrams = nn.Embedding(config.num_ngrams, config.num_labels)
        self.register_buffer("keys", torch.zeros(config.num_ngrams, dtype=torch.long))
        self.bias = nn.Parameter(torch.zeros(config.num_labels))
        self.scale = nn.Parameter(torch.ones(()))
        self.post_init()

    def rows(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Rows of the table for the n-grams of texts `(B, T)` -> `(B, N)`, -1 for what has none."""
        return rows_of(torch.cat(text_keys(self.config, input_ids, attention_mask), dim=1), self.keys)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of weights; its rows are n-grams, not tokens."""
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
        found = self.rows(input_ids, attention_mask)
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


__all__ = ["LanguageIdNgramForSequenceClassification", "LanguageIdNgramPreTrainedModel", "text_keys"]
