"""The processor and the model of a multimodal_fer recipe."""

import dataclasses
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from hf_fer.data.loading import DataError, LoadedData
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.task.base import Task
from hf_fer.task.settings import check_settled, lora_settings
from hf_fer.weights.encoders import check_features

from ..backbones_multimodal_fer import PARTS, encoder_config
from ..configuration_multimodal_fer import MultimodalFerConfig
from ..decoding_multimodal_fer import is_feature_reference, load_visual_features
from ..modeling_multimodal_fer import MultimodalFerForEmotionClassification
from ..processing_multimodal_fer import MultimodalFerProcessor
from . import visual_features
from .arguments import MultimodalFerDataArguments, MultimodalFerModelArguments
from .preprocessing import free, new_processor
from .start import check_adapter_base, checkpoint_model, checkpoint_processor


def base_processor(task: Task) -> MultimodalFerProcessor:
    """The checkpoint's processor, or a new one."""
    path = task.model_args.model_name_or_path
    if not path:
        return processor_of(task)
    processor, settled = checkpoint_processor(path, task.data_args.modalities)
    check_settled(task, path, settled)
    return free(processor, task.data_args)


def make_processor(task: Task, data: LoadedData) -> MultimodalFerProcessor:
    """The base processor, with mean and standard deviation of visual features over the training split."""
    processor = base_processor(task)
    if task.model_args.model_name_or_path:
        return processor
    features = feature_sources(data, task.data_args)
    if features:
        mean, std, tokens = visual_features.statistics(features, load_visual_features)
        processor.visual_feature_mean, processor.visual_feature_std = mean, std
        processor.visual_feature_tokens = tokens
    return processor


def processor_of(task: Task) -> MultimodalFerProcessor:
    """A processor with the recipe's settings and the mel bins of the audio encoder's checkpoint."""
    if not task.model_args.audio_backbone:
        return new_processor(task.data_args)
    try:
        mel_bins = encoder_config("audio", task.model_args.audio_backbone).num_mel_bins
    except (OSError, ValueError) as error:
        raise RecipeError(f"audio_backbone: {error}") from error
    processor = new_processor(task.data_args, mel_bins, default_normalization="utterance")
    check_features("audio_backbone", task.model_args.audio_backbone, processor.feature_extractor)
    return processor


def feature_sources(data: LoadedData, args: MultimodalFerDataArguments) -> list[str]:
    """
    The training clips' visual features, if features replace video; empty otherwise.

    Raises:
        DataError: some clips have features and others have files.
    """
    if "video" not in args.modalities or "train" not in data.splits:
        return []
    sources = [source for split in data.splits.values() for source in split["video"] if source]
    kinds = [is_feature_reference(source) for source in sources]
    if any(kinds) and not all(kinds):
        raise DataError(
            f"{sources[kinds.index(False)]} is a file and {sources[kinds.index(True)]} are features: the 'video' "
            "column must hold one or the other."
        )
    return [source for source in data.splits["train"]["video"] if source] if any(kinds) else []


def make_model(task: Task, data: LoadedData, processor: MultimodalFerProcessor) -> PreTrainedModel:
    """A new model with encoders of the recipe's checkpoints, or the model of one checkpoint."""
    args = task.model_args
    valid = {item.name for item in dataclasses.fields(MultimodalFerConfig)}
    for name in args.config_overrides:
        check_choice("config_overrides field", name, valid)
    overrides = dict(args.config_overrides)
    if args.balance_classes:
        overrides["class_weights"] = balanced_weights(data)
    if args.attn_implementation:
        overrides["attn_implementation"] = args.attn_implementation
    labels = dict(enumerate(data.labels))
    naming = {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}
    if args.model_name_or_path:
        training = task.training_args.do_train
        model = checkpoint_model(args.model_name_or_path, data.labels, {**overrides, **naming}, training)
    else:
        if processor.visual_feature_mean is not None:
            overrides["visual_feature_size"] = len(processor.visual_feature_mean)
        model = new_model(args, new_config(args, task.data_args, overrides, naming))
    for part in (*(args.freeze or []), *args.unfreeze):
        check_choice("part to freeze", part, model.encoders())
    model.freeze(args.freeze or [])
    model.unfreeze(args.unfreeze)
    lora = lora_settings(task)
    if task.training_args.do_train and lora and lora.save == "adapter":
        check_adapter_base(model, args.model_name_or_path, args.backbones)
    return model


def new_model(args: MultimodalFerModelArguments, config: MultimodalFerConfig) -> PreTrainedModel:
    """A new model with encoders of the recipe's checkpoints; raises `RecipeError` where one cannot be loaded."""
    if not args.backbones:
        return MultimodalFerForEmotionClassification(config)
    try:
        return MultimodalFerForEmotionClassification.from_backbones_pretrained(
            config, **args.backbones, fusion_num_layers=args.fusion_num_layers
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"Pretrained encoders: {error}") from error


def new_config(
    args: MultimodalFerModelArguments,
    data_args: MultimodalFerDataArguments,
    overrides: dict[str, Any],
    naming: dict[str, Any],
) -> MultimodalFerConfig:
    """The preset with the recipe's sizes and overrides."""
    for part in args.backbones:
        name = PARTS[part][0]
        shape = [key for key in overrides.get(name, {}) if "dropout" not in key and key != "layerdrop"]
        if shape:
            raise RecipeError(
                f"config_overrides: {name}.{shape[0]} is set by {part}_backbone; only dropouts can change."
            )
    vision = {"image_size": data_args.image_size, **overrides.pop("vision_config", {})}
    try:
        return MultimodalFerConfig.from_preset(
            args.model_size,
            **{
                "modalities": data_args.modalities,
                "num_frames": data_args.num_frames,
                "vision_config": vision,
                **overrides,
                **naming,
            },
        )
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise RecipeError(f"config_overrides: {error}") from error


def balanced_weights(data: LoadedData) -> list[float]:
    """Class weights inverse to the training counts, with a mean of 1 over the training examples."""
    counts = data.counts()["train"]
    if 0 in counts.values():
        raise DataError(f"balance_classes needs training clips of every class; counts are {counts}.")
    return [sum(counts.values()) / (len(counts) * count) for count in counts.values()]
