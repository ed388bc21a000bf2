"""The settings by which clips are preprocessed.

This module makes a processor from a recipe's fields, and reads the settings back from a processor: for the keys of
caches, for the check of files, and for the fields that a checkpoint fixes.
"""

import json
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedConfig, SiglipImageProcessor
from transformers.image_processing_utils import BaseImageProcessor

from hf_fer.data.loading import file_facts

from ..decoding_multimodal_fer import DECODER_VERSION
from ..face_multimodal_fer import find_yunet
from ..processing_multimodal_fer import MultimodalFerFeatureExtractor, MultimodalFerProcessor
from .arguments import MultimodalFerDataArguments

PARAKEET_PREEMPHASIS = 0.97

PROVENANCE = ("_name_or_path", "transformers_version", "architectures", "dtype")
"""Configuration fields that say where weights came from and do not affect what is computed."""

SETTINGS: dict[str, Callable[[MultimodalFerProcessor], Any]] = {
    "num_frames": lambda processor: processor.num_frames,
    "image_size": lambda processor: processor.image_processor.size["height"],
    "face_crop": lambda processor: processor.face_crop,
    "yunet_path": lambda processor: processor.yunet_path,
    "audio_normalization": lambda processor: processor.feature_extractor.normalize,
    "trim_silence_db": lambda processor: processor.feature_extractor.trim_db,
    "max_seconds": lambda processor: processor.max_seconds,
    "max_pixels": lambda processor: processor.max_pixels,
}
"""Field of a recipe -> function that reads it from a processor."""

FREE = ("yunet_path", "max_seconds", "max_pixels")
"""Fields that a run may change when it starts from a checkpoint; the checkpoint fixes the others."""


def new_processor(
    args: MultimodalFerDataArguments, mel_bins: int = 80, default_normalization: str = "global"
) -> MultimodalFerProcessor:
    """A processor with the recipe's settings."""
    normalization = args.audio_normalization or default_normalization
    return MultimodalFerProcessor(
        MultimodalFerFeatureExtractor(
            feature_size=mel_bins,
            normalize=normalization,
            trim_db=args.trim_silence_db,
            preemphasis=PARAKEET_PREEMPHASIS if normalization == "utterance" else None,
        ),
        SiglipImageProcessor(size={"height": args.image_size, "width": args.image_size}),
        num_frames=args.num_frames,
        face_crop=args.face_crop,
        yunet_path=args.yunet_path,
        **args.limits,
    )


def settled(processor: MultimodalFerProcessor) -> dict[str, Any]:
    """Fields of a recipe that a checkpoint's processor fixes, with its values."""
    return {name: read(processor) for name, read in SETTINGS.items() if name not in FREE}


def free(processor: MultimodalFerProcessor, args: MultimodalFerDataArguments) -> MultimodalFerProcessor:
    """A checkpoint's processor with the recipe's values of the fields in `FREE`."""
    for name, value in {"yunet_path": args.yunet_path, **args.limits}.items():
        setattr(processor, name, value)
    return processor


def cache_keys(processor: MultimodalFerProcessor) -> dict[str, dict[str, Any]]:
    """
    The settings that each kind of cached array depends on, apart from the file and an encoder's weights.

    Returns:
        Settings of `audio_samples`, `video_frames`, `audio_hidden_states` and `visual_features`; see the module
        `cache`.
    """
    samples, frames = _sound(processor), _pictures(processor)
    return {
        "audio_samples": samples,
        "video_frames": frames,
        "audio_hidden_states": {**samples, **as_json(processor.feature_extractor)},
        "visual_features": {**frames, **as_json(processor.image_processor)},
    }


def check_key(processor: MultimodalFerProcessor) -> dict[str, Any]:
    """The settings that decide whether a file can be used: those of its decoding."""
    return {"sound": _sound(processor), "pictures": _pictures(processor), "decoder": DECODER_VERSION}


def as_json(settings: BaseImageProcessor | MultimodalFerFeatureExtractor | PreTrainedConfig) -> dict[str, Any]:
    """The saved form of a processor or configuration, without its provenance."""
    values = json.loads(settings.to_json_string())
    return {name: value for name, value in values.items() if name not in PROVENANCE}


def _sound(processor: MultimodalFerProcessor) -> dict[str, Any]:
    extractor = processor.feature_extractor
    settings = {name: getattr(extractor, name) for name in ("sampling_rate", "trim_db", "n_fft", "hop_length")}
    return {"decoder": DECODER_VERSION, "max_seconds": processor.max_seconds, **settings}


def _pictures(processor: MultimodalFerProcessor) -> dict[str, Any]:
    detector = file_facts(find_yunet(processor.yunet_path)) if processor.face_crop == "yunet" else None
    sizes = {name: getattr(processor.image_processor, name) for name in ("do_resize", "resample")}
    return {
        "decoder": DECODER_VERSION,
        "limits": list(processor.limits),
        "num_frames": processor.num_frames,
        "face_crop": processor.face_crop,
        "detector": detector,
        "size": dict(processor.image_processor.size),
        **sizes,
    }
