"""Exporter of language_id's classifiers."""

import torch
from transformers import Pipeline
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_fer.metrics.classification import NAMES
from hf_fer.task.export import Exporter


class TextExporter(Exporter):
    """Exports a classifier that maps windows of tokens to logits."""

    pipeline_task = "text-language-identification"
    output_class = SequenceClassifierOutput
    free_axes = {"input_ids": (1,), "attention_mask": (1,)}
    metrics = dict.fromkeys(NAMES, False)

    @classmethod
    def made_up(cls, pipe: Pipeline, number: int, draw: torch.Generator) -> str:
        """A text of tokens drawn from the vocabulary."""
        ids = torch.randint(len(pipe.tokenizer), (4 + 6 * number,), generator=draw).tolist()
        return f"a {pipe.tokenizer.decode(ids, skip_special_tokens=True)}"

    @classmethod
    def padding(cls, pipe: Pipeline) -> dict[str, float]:
        return {"input_ids": pipe.tokenizer.pad_token_id}
