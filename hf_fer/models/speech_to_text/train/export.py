"""Exports speech_to_text: features or samples to logits."""

import numpy as np
import torch
from transformers import Pipeline
from transformers.modeling_outputs import CausalLMOutput

from hf_fer.task.export import Exporter


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
