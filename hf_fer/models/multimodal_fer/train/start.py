"""Loads a checkpoint of this system, to train it further or to evaluate it."""

import logging
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from hf_fer.adapters import is_adapter, load_adapter_model
from hf_fer.data.loading import DataError
from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.checkpoints import start_anew
from hf_fer.weights.starting_points import NOT_LOADABLE, load_model, read

from ..backbones_multimodal_fer import PARTS
from ..configuration_multimodal_fer import MultimodalFerConfig
from ..face_multimodal_fer import NoFaceError, face_cropper
from ..modeling_multimodal_fer import MultimodalFerForEmotionClassification
from ..processing_multimodal_fer import MultimodalFerProcessor
from .preprocessing import settled

logger = logging.getLogger(__name__)


def checkpoint_processor(path: str, modalities: list[str]) -> tuple[MultimodalFerProcessor, dict[str, Any]]:
    """
    A checkpoint's processor, and the recipe fields that the checkpoint fixes with their values.

    Args:
        path: Folder or Hub repository.
        modalities: Modalities of the data.

    Raises:
        RecipeError: the checkpoint does not exist, or was built without one of the modalities.
    """
    try:
        processor = MultimodalFerProcessor.from_pretrained(path)
        config = read(MultimodalFerConfig.from_pretrained, path)
    except NOT_LOADABLE as error:
        raise RecipeError(
            f"model_name_or_path: {path} has no model of this system that can be loaded ({error}). If a recipe "
            "makes it, run that first."
        ) from error
    backbones = {f"{part}_backbone": (config.backbones or {}).get(part) for part in PARTS}
    lacking = sorted(set(modalities) - set(config.modalities))
    if lacking:
        raise RecipeError(
            f"modalities: {path} was built for {' and '.join(config.modalities)}, without {lacking[0]}. Give "
            f"--modalities {' '.join(config.modalities)}, or train a new model without model_name_or_path."
        )
    return processor, {**settled(processor), **backbones}


def check_face_detector(processor: MultimodalFerProcessor) -> None:
    """Raises `RecipeError` where YuNet is needed and its file cannot be loaded or does not run in this OpenCV."""
    try:
        face_cropper(processor.face_crop, processor.yunet_path)(np.zeros((1, 64, 64, 3), np.uint8))
    except NoFaceError:
        return
    except (FileNotFoundError, RuntimeError) as error:
        raise RecipeError(str(error)) from error


def known_classes(path: str) -> list[str]:
    """A checkpoint's classes in the order of its logits; empty if it has no model, which another check reports."""
    try:
        config = MultimodalFerConfig.from_pretrained(path)
    except (OSError, ValueError):
        return []
    return [config.id2label[index] for index in range(config.num_labels)]


def checkpoint_model(
    path: str, labels: list[str], overrides: dict[str, Any], training: bool
) -> MultimodalFerForEmotionClassification:
    """
    A checkpoint's model; if the data has other classes, its classifier is initialised again.

    Args:
        path: Folder or Hub repository, of a model or of adapters.
        labels: Class names of the data.
        overrides: Fields of the configuration.
        training: Whether the model will be trained.

    Raises:
        DataError: the data has other classes, and the model will not be trained.
        RecipeError: the checkpoint has adapters of a model for other classes.
    """
    known = list(MultimodalFerConfig.from_pretrained(path).id2label.values())
    if known != labels and not training:
        raise DataError(f"{path} has the classes {known}, the data has {labels}: it cannot be scored on them.")
    if known != labels and is_adapter(path):
        raise RecipeError(
            f"{path} holds adapters of a model for the classes {known}, the data has {labels}, and adapters need that "
            "model's classifier. Start from a model that was saved with lora save 'merged'."
        )
    if known != labels:
        logger.warning(
            "%s has the classes %s, the data has %s: its classifier is initialised again.", path, known, labels
        )
    if is_adapter(path):
        model = load_adapter_model(path, **overrides)
    else:
        heads = ("classifier.", "auxiliary.") if known != labels else ()
        model = load_model(
            MultimodalFerForEmotionClassification, path, anew=lambda name: name.startswith(heads), **overrides
        )
        if known != labels:
            start_anew(model.classifier, *getattr(model, "auxiliary", {}).values())
    if training:
        # After training, the fitted values no longer apply.
        model.config.temperature = overrides.get("temperature", 1.0)
        model.config.abstention_threshold = overrides.get("abstention_threshold", 0.0)
    return model


def check_adapter_base(model: PreTrainedModel, path: str | None, backbones: dict[str, str]) -> None:
    """
    Check that the weights which are not saved with adapters can be loaded again.

    Args:
        model: The model, with its frozen encoders.
        path: The checkpoint that it started from, if any.
        backbones: Checkpoint by encoder.

    Raises:
        RecipeError: a frozen encoder has random weights, or weights with merged adapters, which would be saved
            nowhere.
    """
    if path:
        if is_adapter(path):
            raise RecipeError(
                f"lora save 'adapter': {path} holds adapters itself, and the model that they are merged into is saved "
                "nowhere. Save 'merged'."
            )
        return
    frozen = {
        part for part, encoder in model.encoders().items() if not any(p.requires_grad for p in encoder.parameters())
    }
    lost = sorted(frozen - backbones.keys())
    if lost:
        raise RecipeError(
            f"lora save 'adapter': {', '.join(lost)} is frozen but came from no checkpoint, so it could not be loaded "
            f"again. Set {lost[0]}_backbone, do not freeze it, or save 'merged'."
        )
