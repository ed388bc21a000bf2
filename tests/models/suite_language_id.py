"""What the common suite needs to know of language_id's own model; its other models are stock ones."""

import torch
from transformers import AutoModelForSequenceClassification

from hf_fer.models.language_id import LanguageIdNgramConfig, LanguageIdNgramForSequenceClassification

MODELS = {LanguageIdNgramForSequenceClassification: [AutoModelForSequenceClassification]}


def config(**fields) -> LanguageIdNgramConfig:
    """A small table; token 1 is padding, 0, 2 and 4 lie between words."""
    return LanguageIdNgramConfig(
        **{"vocab_size": 30, "num_ngrams": 211, "boundary_token_ids": [0, 2, 4], "num_labels": 3, **fields}
    )


def batch(size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Texts of 12 characters, the last of them shorter."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(4, 30, (size, 12), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    input_ids[-1, 8:], attention_mask[-1, 8:] = 1, 0
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": torch.arange(size) % 3}


def longer(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same texts with five more tokens of padding."""
    padding = {"input_ids": 1, "attention_mask": 0}
    return {
        name: torch.nn.functional.pad(value, (0, 5), value=padding[name]) if name in padding else value
        for name, value in inputs.items()
    }


def main_output(output) -> torch.Tensor:
    """The logits."""
    return output.logits


def states() -> dict[str, list[tuple[int, ...]]]:
    """None: the model is one sum of weights."""
    return {}
