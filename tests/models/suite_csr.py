"""What the common suite needs to know of csr."""

import torch
from transformers import AutoModelForImageClassification

from hf_fer.models.csr import CsrConfig, CsrForImageClassification

MODELS = {CsrForImageClassification: [AutoModelForImageClassification]}

BACKBONES = {
    "medmae": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "resnet50": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "timm/test_vit": {},
    "timm/test_resnet": {},
}


def config(backbone: str = "medmae", stage: int = 1, **fields) -> CsrConfig:
    """A small model on images of 32 pixels; stage 1 trains the most parts."""
    sized = {"image_size": 32, "patch_size": 8} if backbone in ("medmae", "vit") else {}
    sized = {"image_size": 32} if backbone.startswith("timm/") else sized
    return CsrConfig(
        backbone=backbone,
        stage=stage,
        backbone_config={**BACKBONES[backbone], **sized},
        **{"num_concepts": 4, "num_prototypes": 3, "prototype_size": 8, "num_labels": 3, **fields},
    )


def batch(size: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    """Images with some concepts each."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "pixel_values": torch.randn(size, 3, 32, 32, generator=generator),
        "labels": torch.arange(size) % 3,
        "concept_labels": (torch.arange(size)[:, None] + torch.arange(4)) % 3 % 2 * 1.0,
    }


def longer(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Images have one size; there is no padding."""
    return inputs


def main_output(output) -> torch.Tensor:
    """What a user reads off the model at this stage."""
    return output.logits if output.logits is not None else output.concept_logits


def states() -> dict[str, list[tuple[int, ...]]]:
    """Shapes of what one image's forward pass records: 16 patches and a class token."""
    return {"hidden_states": [(1, 17, 16)] * 3, "attentions": [(1, 2, 17, 17)] * 2}
