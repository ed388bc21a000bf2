"""Exports speech_to_text: features or samples to logits."""

import numpy as np
import torch
from torch import Tensor
from transformers import Pipeline, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from hf_fer.task.export import Exporter

from ..alignment_speech_to_text import frame_lengths


class RecordingExporter(Exporter):
    """Features or samples of a chunk of sound to the logits of its frames."""

    pipeline_task = "timed-speech-recognition"
    output_class = CausalLMOutput
    free_axes = {"input_features": (1,), "input_values": (1,), "attention_mask": (1,)}
    metrics = {"wer": True, "cer": True}

    @classmethod
    def made_up(cls, pipe: Pipeline, number: int, draw: torch.Generator) -> np.ndarray:
        """A recording of noise, 0.6 s and longer."""
        samples = int((0.6 + 0.35 * number) * pipe.feature_extractor.sampling_rate)
        return (0.1 * torch.randn(samples, generator=draw)).numpy()

    @classmethod
    def compared(
        cls, model: PreTrainedModel, batch: dict[str, Tensor], outputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Logits of padding frames are 0: nothing reads them, and half precision rounds them otherwise."""
        if "attention_mask" not in batch:
            return outputs
        logits = outputs["logits"]
        is_padding = torch.arange(logits.shape[1]) >= frame_lengths(model, batch["attention_mask"])[:, None]
        return {**outputs, "logits": logits.masked_fill(is_padding[..., None], 0.0)}
