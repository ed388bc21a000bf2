"""A small model that is trained from scratch, its tokenizer, and the normalisation of every model's tokenizer."""

from collections.abc import Callable, Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def plain_normalizer() -> normalizers.Normalizer:
    """NFKC, lower case, and one digit for every number: these differences do not tell languages apart."""
    return normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\d+"), "0"),
            normalizers.Replace(Regex(r"\s+"), " "),
        ]
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """
    Train byte-level BPE, which can encode every text, on texts as `plain_normalizer` writes them.

    Args:
        texts: Texts of the training split only.
        vocab_size: Largest size of the vocabulary.
        max_length: Tokens per window.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = plain_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=3,
            special_tokens=list(SPECIAL_TOKENS.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    start = SPECIAL_TOKENS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.token_to_id(start))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **SPECIAL_TOKENS)


def with_nfkc(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A pretrained fast tokenizer with NFKC as its first step, which is saved with it."""
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is None or backend.normalizer.normalize_str("ｶ") != "カ":
        steps = [normalizers.NFKC(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = normalizers.Sequence(steps)
    return tokenizer


def outside_encoder(config: PreTrainedConfig) -> Callable[[str], bool]:
    """A function that says whether a weight, by its name, is outside the encoder; a pooler belongs to the head."""
    prefix = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)].base_model_prefix
    return lambda name: ".pooler." in name or not name.startswith(f"{prefix}.")


def scratch_config(tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, Any]:
    """
    Fields of the ModernBERT that is trained from scratch.

    It has one layer over a large vocabulary, with mean pooling: nearly a bag of word pieces, which a few hundred
    sentences per language suffice to train. Rotary positions do not limit the length of a text.
    """
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 160,
        "intermediate_size": 160,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "global_attn_every_n_layers": 1,
        "max_position_embeddings": max(max_length, 512) + 2,
        "classifier_pooling": "mean",
        "embedding_dropout": 0.1,
        "mlp_dropout": 0.1,
        "classifier_dropout": 0.1,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "cls_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "sep_token_id": tokenizer.eos_token_id,
    }
