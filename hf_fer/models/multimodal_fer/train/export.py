"""Exports multimodal_fer: sound and pictures to logits."""

from typing import Any

import torch
from transformers import Pipeline

from hf_fer.metrics.classification import NAMES
from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.export import Exporter

from ..modeling_multimodal_fer import EmotionClassifierOutput


class ClipExporter(Exporter):
    """
    Sound and pictures to logits.

    One graph does for clips with both and with either: the processor pads what a clip lacks with zeros and a mask of
    zeros, for which the model puts what it has learned for the missing modality.
    """

    pipeline_task = "audio-visual-emotion-recognition"
    output_class = EmotionClassifierOutput
    free_axes = {
        "input_features": (1,),
        "attention_mask": (1,),
        "pixel_values": (1,),
        "visual_features": (1,),
        "frame_mask": (1,),
    }
    metrics = dict.fromkeys(NAMES, False)

    @classmethod
    def made_up(cls, pipe: Pipeline, number: int, draw: torch.Generator) -> dict[str, Any]:
        """Noise of 1 s and more: of the model's modalities all, the first alone and the last alone, in turn."""
        processor, config = pipe.processor, pipe.model.config
        if processor.face_crop == "yunet" and "video" in config.modalities and not config.visual_feature_size:
            raise RecipeError("its processor looks for faces, which noise has not: give --examples.")
        length = int((1 + 0.4 * number) * processor.sampling_rate)
        clip = {
            "audio": 0.1 * torch.randn(length, generator=draw).numpy(),
            "video": torch.randint(256, (8, 48, 64, 3), generator=draw, dtype=torch.uint8).numpy(),
        }
        if config.visual_feature_size:
            size = (min(2 + number, config.num_frames), processor.visual_feature_tokens, config.visual_feature_size)
            clip["video"] = torch.randn(size, generator=draw).numpy()
        names = config.modalities
        chosen = (names, names[:1], names[-1:])[number % 3]
        return {name: clip[name] for name in chosen} | {"sampling_rate": processor.sampling_rate}
