"""Builds CSR's backbones, computes their feature maps and loads weights from transformers, timm or MAE checkpoints."""

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_BACKBONE_MAPPING,
    MODEL_MAPPING,
    AutoBackbone,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BackboneOutput
from transformers.utils import ModelOutput

from .configuration_csr import TIMM, backbone_type

PRETRAINED = "pretrained"
"""Given instead of a file, it selects timm's default weights of the model, which are downloaded from the Hub."""

# Prefixes that checkpoints of classifiers, masked autoencoders and DataParallel put before the backbone's keys.
PREFIXES = ("module.", "model.", "vit.", "resnet.", "convnext.", "backbone.")

# Modules of such checkpoints that the feature map does not need.
HEADS = ("decoder", "mask_token", "classifier", "head", "fc.", "fc_norm", "pooler.")

# Keys of timm and MAE -> keys under which transformers saves ViT and ViT-MAE. Packed query, key and value are split
# in `timm_to_transformers`.
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
    """The checkpoint does not fit the backbone; the message lists the keys."""


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """A new backbone without modules that the feature map does not use, because DDP waits for their gradients."""
    if config.model_type == "timm_backbone":
        return AutoBackbone.from_config(config, **timm_size(config))
    backbone = AutoModel.from_config(config)
    if config.model_type == "vit":
        backbone.pooler = None
    if config.model_type == "convnext":
        backbone.layernorm = nn.Identity()
    return backbone


def timm_size(config: PreTrainedConfig) -> dict[str, int]:
    """`img_size` for a timm model that is built for one image size, such as a vision transformer; else empty."""
    import timm  # here, because it takes a second

    is_fixed = timm.get_pretrained_cfg(config.backbone).fixed_input_size
    return {"img_size": config.image_size} if is_fixed and getattr(config, "image_size", None) else {}


def can_checkpoint(name: str) -> bool:
    """Whether the layers of a backbone, by its name in `CsrConfig`, support gradient checkpointing."""
    config_class = CONFIG_MAPPING[backbone_type(name)[0]]
    mapping = MODEL_FOR_BACKBONE_MAPPING if name.startswith(TIMM) else MODEL_MAPPING
    return mapping[config_class].supports_gradient_checkpointing


def feature_size(backbone: PreTrainedModel) -> int:
    """Channels of the feature map."""
    if backbone.config.model_type == "timm_backbone":
        return backbone.channels[-1]
    sizes = getattr(backbone.config, "hidden_sizes", None)
    return sizes[-1] if sizes else backbone.config.hidden_size


def in_half(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts inputs to the model's type where that is half precision, and returns them unchanged otherwise."""
    return tensor.to(dtype) if dtype in (torch.float16, torch.bfloat16) else tensor


def encode(backbone: PreTrainedModel, pixel_values: Tensor, **record: bool) -> tuple[Tensor, ModelOutput]:
    """
    Pixels `(B, 3, height, width)` -> features `(B, C, H, W)`, and the backbone's own output.

    Args:
        backbone: Of `build_backbone`; a transformer's patch tokens become features by their place.
        pixel_values: Normalised images.
        record: `output_hidden_states` and `output_attentions`, where the backbone is to record them.

    Raises:
        ValueError: attentions are asked of a backbone that gives none.
    """
    kind, pixel_values = backbone.config.model_type, in_half(pixel_values, backbone.dtype)
    if record.get("output_attentions") and kind not in ("vit", "vit_mae"):
        raise ValueError(f"output_attentions: backbones of type {kind!r} give no attentions, those of 'vit' do.")
    options = {name: value for name, value in record.items() if name == "output_hidden_states" or value}
    if kind == "timm_backbone":
        output = timm_output(backbone, pixel_values, options.get("output_hidden_states"))
        features = output.feature_maps[-1]
        return (features.permute(0, 3, 1, 2) if backbone._backbone.output_fmt == "NHWC" else features), output
    if kind == "vit_mae":
        # Ascending noise keeps the patches in their order; with a mask ratio of 0 it keeps them all.
        patches = backbone.embeddings.patch_embeddings.num_patches
        options["noise"] = torch.arange(patches, device=pixel_values.device).expand(pixel_values.shape[0], -1)
    output = backbone(pixel_values, return_dict=True, **options)
    hidden = output.last_hidden_state
    if hidden.ndim == 4:
        return hidden, output
    height, width = (side // backbone.config.patch_size for side in pixel_values.shape[-2:])
    return hidden[:, -height * width :].transpose(1, 2).unflatten(2, (height, width)), output


def timm_output(backbone: PreTrainedModel, pixel_values: Tensor, output_hidden_states: bool | None) -> BackboneOutput:
    """
    What a timm backbone gives, with the feature maps of all its layers where hidden states are asked for.

    `TimmBackbone` itself finds them in convolutional networks only.

    Raises:
        ValueError: timm takes this model's features by hooks on some layers, and not those of all of them.
    """
    if not output_hidden_states:
        return backbone(pixel_values, output_hidden_states=False, return_dict=True)
    net = backbone._backbone
    if hasattr(net, "return_layers"):
        return backbone(pixel_values, output_hidden_states=True, return_dict=True)
    if not hasattr(net, "model"):
        raise ValueError(f"output_hidden_states: timm's {backbone.config.backbone} gives no hidden states.")
    options = {"norm": net.norm, "output_fmt": net.output_fmt, "intermediates_only": True}
    states = tuple(net.model.forward_intermediates(pixel_values, indices=None, **options))
    return BackboneOutput(feature_maps=tuple(states[index] for index in net.out_indices), hidden_states=states)


def feature_map(backbone: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Pixels `(B, 3, height, width)` -> features `(B, C, H, W)`; see `encode`."""
    return encode(backbone, pixel_values)[0]


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
        raise BackboneKeysError(f"{path}: cannot be read as weights; damaged or another format ({error}).") from error
    for wrapper in ("model", "state_dict"):
        state = state.get(wrapper, state) if isinstance(state, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise BackboneKeysError(f"{path}: contains no named tensors.")
    return tensors


def bare_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without wrapping prefixes and without heads and decoders."""
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
        path: See `read_weights`. Keys are in transformers' layout or, for `vit` and `vit_mae`, in timm's and MAE's.
            Keys of timm's models are in timm's layout; `PRETRAINED` stands for timm's default weights from the Hub.

    Raises:
        BackboneKeysError: keys are missing, left over or of another shape; the message lists them all.
    """
    if config.model_type == "timm_backbone":
        return load_timm(config, path)
    state = timm_to_transformers(bare_names(read_weights(path)))
    if config.model_type == "convnext":
        state = {name: value for name, value in state.items() if not name.startswith("layernorm.")}
    backbone = build_backbone(config)
    # The library renames the keys of its saved layout to those of the installed version.
    loaded, info = type(backbone).from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True
    )
    wanted = backbone.state_dict()
    shapes = {name: f"{tuple(got)}, not {tuple(want)}" for name, got, want in info["mismatched_keys"]}
    refuse_other_keys(
        f"{path} does not fit the backbone {config.model_type!r}.",
        set(info["missing_keys"]) & set(wanted),
        set(info["unexpected_keys"]),
        shapes,
    )
    backbone.load_state_dict({name: value for name, value in loaded.state_dict().items() if name in wanted})
    return backbone


def refuse_other_keys(message: str, missing: set[str], left_over: set[str], shapes: dict[str, str]) -> None:
    """
    Check that a checkpoint has the keys of the model.

    Raises:
        BackboneKeysError: the keys differ; it has the message and lists them all.
    """
    problems = {
        "missing": sorted(missing),
        "left over": sorted(left_over),
        "of another shape": sorted(f"{name} {shape}" for name, shape in shapes.items()),
    }
    if any(problems.values()):
        listed = "".join(f"\n{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise BackboneKeysError(f"{message}{listed}")


def load_timm(config: PreTrainedConfig, path: str | Path) -> PreTrainedModel:
    """
    A backbone of timm with weights in timm's layout; timm resizes position embeddings to `image_size`.

    timm ignores keys that do not fit when it builds a feature extractor, so keys are compared before.

    Args:
        config: The backbone's configuration.
        path: See `read_weights`, or `PRETRAINED`.

    Raises:
        BackboneKeysError: see `load_backbone`; or the weights cannot be downloaded.
    """
    import timm

    name, size = config.backbone, timm_size(config)
    if path == PRETRAINED:
        try:
            return AutoBackbone.from_config(config, pretrained=True, **size)
        except Exception as error:  # timm and the Hub's client raise all kinds
            hub_id = timm.get_pretrained_cfg(name).hf_hub_id
            raise BackboneKeysError(
                f"the weights of {TIMM}{name} cannot be downloaded ({error}). On a machine with a network run "
                f"hf download {hub_id} --local-dir FOLDER, then set --backbone_weights FOLDER."
            ) from error
    path = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    classifier = timm.get_pretrained_cfg(name).classifier
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier or []))
    state = {key: value for key, value in read_weights(path).items() if not key.startswith(heads)}
    wanted = timm.create_model(name, num_classes=0).state_dict()
    shapes = {
        key: f"{tuple(value.shape)}, not {tuple(wanted[key].shape)}"
        for key, value in state.items()
        if key in wanted and value.shape != wanted[key].shape
    }
    message = f"{path} does not fit the backbone {TIMM}{name}."
    refuse_other_keys(message, set(wanted) - set(state), set(state) - set(wanted), shapes)
    return AutoBackbone.from_config(config, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **size)


__all__ = [
    "BackboneKeysError",
    "build_backbone",
    "encode",
    "feature_map",
    "feature_size",
    "in_half",
    "load_backbone",
    "timm_to_transformers",
]
