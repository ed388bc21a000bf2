"""Loads pretrained encoders into the audio-visual emotion model."""

import copy
import re
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    Lfm2Config,
    Lfm2Model,
    ParakeetEncoder,
    ParakeetEncoderConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from .configuration_multimodal_fer import FrameEncoderConfig, MultimodalFerConfig
from .vision_multimodal_fer import FrameEncoder

# Encoder -> field of `MultimodalFerConfig`, class of its value, class of the encoder, and the field in which the
# configuration of a larger model keeps the encoder's.
PARTS: dict[str, tuple[str, type[PreTrainedConfig], type[PreTrainedModel], str]] = {
    "audio": ("audio_config", ParakeetEncoderConfig, ParakeetEncoder, "encoder_config"),
    "vision": ("vision_config", FrameEncoderConfig, FrameEncoder, "vision_config"),
    "fusion": ("lfm2_config", Lfm2Config, Lfm2Model, "text_config"),
}

# In a checkpoint of this system: the module of each encoder, and the modules around it, which stay behind.
OWN_MODULES = {"audio": "audio_encoder", "vision": "vision_encoder", "fusion": "fusion"}
OWN_OTHERS = re.compile(
    r"model\.((audio|vision)_encoder|(audio|video|visual_feature)_projection|audio_pooling|roi_compression"
    r"|temporal_encoder|modality_embedding|fusion)\..*|(classifier|auxiliary|contrastive|pooling)\b.*"
)

# Weights of a checkpoint that the encoder does not take: heads, the text tower, token embeddings.
LEFT_BEHIND = {
    "audio": re.compile(r"(ctc_head|decoder|joint|encoder_projector)\b.*"),
    "vision": re.compile(r"(vision_model\.)?head\..*|text_model\..*|logit_(scale|bias)"),
    "fusion": re.compile(r"(model\.)?embed_tokens\.weight|lm_head\..*"),
}


def encoder_config(part: str, name: str, **hub: Any) -> PreTrainedConfig:
    """
    The configuration of a checkpoint's encoder; the checkpoint may be of this system, too.

    Args:
        part: `"audio"`, `"vision"` or `"fusion"`.
        name: Checkpoint folder or Hub model.
        hub: `token`, `revision`, `cache_dir`, ... for the Hub.

    Raises:
        ValueError: the checkpoint is of another model type.
        OSError: the checkpoint does not exist.
    """
    field, config_class, _, nested = PARTS[part]
    found = AutoConfig.from_pretrained(name, **hub)
    for candidate in (found, getattr(found, nested, None), getattr(found, field, None)):
        if getattr(candidate, "model_type", None) == config_class.model_type:
            return candidate
    raise ValueError(
        f"{name} is a {found.model_type!r} checkpoint; the {part} encoder needs a {config_class.model_type!r}"
        + (", a fixed-resolution SigLIP2, not NaFlex." if found.model_type.startswith("siglip2") else ".")
    )


def with_backbones(
    config: MultimodalFerConfig, backbones: dict[str, str], fusion_num_layers: int | None = None, **hub: Any
) -> MultimodalFerConfig:
    """
    A configuration in which the named encoders have the sizes of their checkpoints.

    Args:
        config: The configuration to change. Fields of a named encoder are replaced, except dropouts and layerdrop.
        backbones: Checkpoint by encoder.
        fusion_num_layers: Keep only this many first layers of LFM2.
        hub: See `encoder_config`.

    Raises:
        ValueError: a checkpoint is of another model type, or has fewer than `fusion_num_layers` layers.
    """
    config = copy.deepcopy(config)
    for part, name in backbones.items():
        field, config_class, _, _ = PARTS[part]
        shape = encoder_config(part, name, **hub).to_diff_dict()
        # The composite trains in fp32 under autocast; a bf16 checkpoint must not set the dtype of the whole.
        for key in ("dtype", "torch_dtype", "transformers_version", "architectures", "_name_or_path"):
            shape.pop(key, None)
        own = getattr(config, field)
        shape |= {key: value for key, value in own.to_dict().items() if "dropout" in key or key == "layerdrop"}
        if part == "vision":
            shape["vision_use_head"] = False
        if part == "fusion":
            shape |= {"vocab_size": 1, "use_cache": False, "bos_token_id": None, "eos_token_id": None}
            shape |= {"pad_token_id": None}
            shape |= first_layers(config_class(**shape), fusion_num_layers or 0)
        setattr(config, field, config_class(**shape))
    config.backbones = {**(config.backbones or {}), **backbones}
    return config


def first_layers(config: Lfm2Config, count: int) -> dict[str, Any]:
    """Fields of an LFM2 configuration that keeps only its first `count` layers; empty for 0."""
    if not count:
        return {}
    if not 1 <= count <= config.num_hidden_layers:
        raise ValueError(f"fusion_num_layers must be in 1 to {config.num_hidden_layers}, got {count}.")
    return {"num_hidden_layers": count, "layer_types": config.layer_types[:count]}


def load_backbone(encoder: nn.Module, part: str, name: str, **hub: Any) -> None:
    """
    Copy a checkpoint's encoder weights, in fp32, into an encoder of the same sizes.

    Args:
        encoder: The encoder to fill; for `"fusion"`, without token embeddings.
        part, name, hub: See `encoder_config`.

    Raises:
        ValueError: weights are missing, unexpected or of another shape; the message lists them.
    """
    _, _, encoder_class, _ = PARTS[part]
    own_prefix = rf"^model\.{OWN_MODULES[part]}\."
    loaded, report = encoder_class.from_pretrained(
        name,
        config=copy.deepcopy(encoder.config),
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        key_mapping={own_prefix: ""},
        **hub,
    )
    layers, own = getattr(encoder.config, "num_hidden_layers", 0), encoder.state_dict().keys()

    def allowed(key: str) -> bool:
        cut = re.match(r"(?:model\.)?layers\.(\d+)\.", key) if part == "fusion" else None
        left = LEFT_BEHIND[part].fullmatch(key) or OWN_OTHERS.fullmatch(key)
        return bool(left) or (cut is not None and int(cut[1]) >= layers)

    problems = [f"missing: {key}" for key in sorted(own & report["missing_keys"])]
    problems += [
        f"shape: {key} is {tuple(theirs)} in the checkpoint, {tuple(ours)} here"
        for key, theirs, ours in sorted(report["mismatched_keys"])
        if not allowed(key)
    ]
    problems += [f"unexpected: {key}" for key in sorted(report["unexpected_keys"]) if not allowed(key)]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(f"{name} does not fit the {part} encoder; {len(problems)} weights do not match:{shown}{more}")
    encoder.load_state_dict({key: value for key, value in loaded.state_dict().items() if key in own})


__all__ = ["LEFT_BEHIND", "PARTS", "encoder_config", "first_layers", "load_backbone", "with_backbones"]
