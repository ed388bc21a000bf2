"""What the common suite needs to know of multimodal_fer."""

import torch
from transformers import AutoModel, AutoModelForAudioClassification, AutoModelForVideoClassification

from hf_fer.models.multimodal_fer import (
    MultimodalFerConfig,
    MultimodalFerForEmotionClassification,
    MultimodalFerModel,
)

MODELS = {
    MultimodalFerModel: [AutoModel],
    MultimodalFerForEmotionClassification: [AutoModelForVideoClassification, AutoModelForAudioClassification],
}


def config() -> MultimodalFerConfig:
    """Every optional part on, every random part off."""
    return MultimodalFerConfig.from_preset(
        "tiny",
        audio_config={"hidden_size": 32, "intermediate_size": 64, "subsampling_conv_channels": 8, **NO_DROPOUT},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "image_size": 32},
        lfm2_config={"hidden_size": 32, "intermediate_size": 64},
        num_frames=6,
        roi_top_k=8,
        classifier_hidden_size=16,
        dropout=0.0,
        classifier_dropout=0.0,
        modality_dropout=0.0,
        contrastive_loss_weight=0.1,
    )


NO_DROPOUT = {"dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0}


def batch(size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Clips of different lengths; the second lacks video and the third audio."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([120, 90, 60, 100, 80, 110])[:size]
    inputs = {
        "input_features": torch.randn(size, 120, 80, generator=generator),
        "attention_mask": (torch.arange(120) < lengths[:, None]).long(),
        "pixel_values": torch.randn(size, 6, 3, 32, 32, generator=generator),
        "frame_mask": torch.ones(size, 6, dtype=torch.long),
        "labels": torch.arange(size) % 8,
    }
    if size > 2:
        inputs["frame_mask"][1] = 0
        inputs["attention_mask"][2] = 0
    inputs["input_features"] *= inputs["attention_mask"][..., None]
    return inputs


def longer(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same examples with 40 more mel frames of padding."""
    features = torch.nn.functional.pad(inputs["input_features"], (0, 0, 0, 40))
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 40))
    return {**inputs, "input_features": features, "attention_mask": mask}


def main_output(output) -> torch.Tensor:
    """What a user reads off either model."""
    return output.logits if "logits" in output else output.last_hidden_state


def states() -> dict[str, list[tuple[int, ...]]]:
    """Shapes of what a pass over one clip records: 4 segments twice, 120 mel frames by 8, 6 frames of 16 patches."""
    return {
        "hidden_states": [(1, 8, 32)] * 3,
        "attentions": [(1, 4, 8, 8)],
        "audio_hidden_states": [(1, 15, 32)] * 3,
        "audio_attentions": [(1, 4, 15, 15)] * 2,
        "video_hidden_states": [(6, 16, 32)] * 3,
        "video_attentions": [(6, 4, 16, 16)] * 2,
    }
