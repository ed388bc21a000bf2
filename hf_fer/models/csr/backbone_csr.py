"""The backbones of CSR as feature maps, and their pretrained weights from transformers, timm or MAE checkpoints."""

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_csr import BACKBONES

# What wraps a backbone in checkpoints of classifiers, of masked autoencoders and of DataParallel.
PREFIXES = ("module.", "model.", "vit.", "resnet.", "convnext.", "backbone.")

# Parts of such checkpoints that no feature map needs.
HEADS = ("decoder", "mask_token", "classifier", "head", "fc.", "fc_norm", "pooler.")

# timm and MAE -> the layout in which transformers saves ViT and ViT-MAE; query, key and value are split apart.
TIMM_VIT = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.layer.\1.layernorm_before."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.layer.\1.layernorm_after."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layer.\1.output.dense."),
)


class BackboneKeysError(ValueError):
    """A checkpoint that does not fit the backbone; the message lists the keys."""


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A new backbone, without the parts that its feature map does not use and DDP would miss the gradients of."""
    backbone = AutoModel.from_config(config)
    if config.model_type == "vit":
        backbone.pooler = None
    if config.model_type == "convnext":
        backbone.layernorm = nn.Identity()
    return backbone


def can_checkpoint(name: str) -> bool:
    """Whether the layers of a backbone, one of `BACKBONES`, support gradient checkpointing."""
    config_class = CONFIG_MAPPING[BACKBONES[name][0]]
    return MODEL_MAPPING[config_class].supports_gradient_checkpointing


def in_half(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Inputs for a model of half precision in its type; those for any other as they are."""
    return tensor.to(dtype) if dtype in (torch.float16, torch.bfloat16) else tensor


def feature_map(backbone: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Pixels `(B, 3, height, width)` -> features `(B, C, H, W)`; a transformer's patch tokens by their place."""
    options, pixel_values = {}, in_half(pixel_values, backbone.dtype)
    if backbone.config.model_type == "vit_mae":
        # Ascending noise keeps the patches in their order; with a mask ratio of 0 it keeps them all.
        patches = backbone.embeddings.patch_embeddings.num_patches
        options["noise"] = torch.arange(patches, device=pixel_values.device).expand(len(pixel_values), -1)
    hidden = backbone(pixel_values, **options).last_hidden_state
    if hidden.ndim == 4:
        return hidden
    height, width = (side // backbone.config.patch_size for side in pixel_values.shape[-2:])
    return hidden[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))


def timm_to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a timm or MAE vision transformer under the names that transformers saves; others unchanged."""
    converted = {}
    for name, value in state.items():
        packed = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name)
        if packed:
            layer, kind = packed.groups()
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                converted[f"encoder.layer.{layer}.attention.attention.{part}.{kind}"] = piece.clone()
            continue
        for pattern, replacement in TIMM_VIT:
            name = re.sub(pattern, replacement, name)
        converted[name] = value
    return converted


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """
    The tensors of a checkpoint: a `.safetensors`, `.pth`, `.pt` or `.bin` file, or a folder with `model.safetensors`.

    Raises:
        BackboneKeysError: it does not exist, cannot be read without running code from it, or holds no tensors.
    """
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise BackboneKeysError(f"{path}: no such file. Give a weights file, or a folder with model.safetensors.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # MAE's training script saves its command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise all kinds on a file that is not theirs
        raise BackboneKeysError(f"{path}: cannot be read as weights, damaged or of another kind ({error}).") from error
    for wrapper in ("model", "state_dict"):
        state = state.get(wrapper, state) if isinstance(state, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise BackboneKeysError(f"{path}: holds no tensors by name.")
    return tensors


def bare_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without wrapping prefixes and without heads and decoders."""
    bare = {}
    for name, value in state.items():
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if not name.startswith(HEADS):
            bare[name] = value
    return bare


def load_backbone(config: PreTrainedConfig, path: str | Path) -> PreTrainedModel:
    """
    A backbone with pretrained weights.

    Args:
        config: The backbone's configuration.
        path: See `read_weights`; keys in transformers' layout, or in timm's and MAE's for `vit` and `vit_mae`.

    Raises:
        BackboneKeysError: a key is missing, left over or of another shape; it lists them all.
    """
    state = timm_to_transformers(bare_names(read_weights(path)))
    if config.model_type == "convnext":
        state = {name: value for name, value in state.items() if not name.startswith("layernorm.")}
    backbone = build_backbone(config)
    # The library renames the keys of its saved layout to those of the installed version.
    loaded, info = type(backbone).from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True
    )
    wanted = backbone.state_dict()
    problems = {
        "missing": sorted(set(info["missing_keys"]) & set(wanted)),
        "left over": sorted(info["unexpected_keys"]),
        "of another shape": sorted(
            f"{name} {tuple(got)}, not {tuple(want)}" for name, got, want in info["mismatched_keys"]
        ),
    }
    if any(problems.values()):
        listed = "".join(f"\n{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise BackboneKeysError(f"{path} does not fit the backbone {config.model_type!r}.{listed}")
    backbone.load_state_dict({name: value for name, value in loaded.state_dict().items() if name in wanted})
    return backbone


__all__ = ["BackboneKeysError", "build_backbone", "feature_map", "in_half", "load_backbone", "timm_to_transformers"]
