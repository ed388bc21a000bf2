"""Takes the encoder out of a larger model's checkpoint, such as the sound branch of a model of sound and pictures."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedConfig, SequenceFeatureExtractor
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_fer.recipe.arguments import RecipeError
from hf_fer.weights.starting_points import INDEX_NAME, NOT_LOADABLE, check_weights, index_files

logger = logging.getLogger(__name__)

LISTED = 20
SAME_FEATURES = ("sampling_rate", "feature_size", "hop_length", "win_length", "n_fft")
"""Fields of a feature extractor without which an encoder's input means something else."""
ADAPTABLE = {"normalize": "utterance", "preemphasis": 0.97}
"""Other fields that change features, with the values of an extractor that lacks them; an encoder adapts to these."""


def nested_config(field: str, path: str, model_type: str) -> PreTrainedConfig:
    """
    The configuration of an encoder in a checkpoint, which may be that of a larger model.

    Args:
        field: Recipe field that names the checkpoint.
        path: Folder or Hub repository.
        model_type: Model type of the encoder.

    Raises:
        RecipeError: there is no checkpoint, or its model has no such encoder, or several.
    """
    try:
        whole = AutoConfig.from_pretrained(path)
    except NOT_LOADABLE as error:
        raise RecipeError(f"{field}: {path} has no model that can be loaded ({error}).") from error
    parts = [whole, *(part for part in vars(whole).values() if isinstance(part, PreTrainedConfig))]
    found = [part for part in parts if part.model_type == model_type]
    if len(found) != 1:
        raise RecipeError(f"{field}: {path} is a {whole.model_type!r} model with {len(found)} {model_type!r} parts.")
    return found[0]


def check_features(field: str, path: str, own: SequenceFeatureExtractor) -> None:
    """
    Compare the features that an encoder was trained on with those that it will get.

    A difference that training can adapt to (normalisation, preemphasis) is logged.

    Args:
        field, path: See `nested_config`.
        own: The feature extractor that it will get features from.

    Raises:
        RecipeError: the features are of another kind, rate or size.
    """
    try:
        source = AutoFeatureExtractor.from_pretrained(path)
    except NOT_LOADABLE:
        logger.warning("%s: %s has no feature extractor, so that it is unknown which features it takes.", field, path)
        return
    if not (isinstance(source, type(own)) or isinstance(own, type(source))):
        raise RecipeError(
            f"{field}: {path} was trained on features of {type(source).__name__}, and would get those of "
            f"{type(own).__name__}."
        )
    for name in SAME_FEATURES:
        theirs, ours = getattr(source, name, None), getattr(own, name, None)
        if theirs != ours:
            raise RecipeError(f"{field}: {path} was trained on features with {name} {theirs}, and would get {ours}.")
    for name, usual in ADAPTABLE.items():
        theirs, ours = getattr(source, name, usual), getattr(own, name, usual)
        if theirs != ours:
            logger.warning(
                "%s: %s was trained on features with %s %r, and gets %r: do not freeze it, so that it can adapt.",
                *(field, path, name, theirs, ours),
            )


def load_encoder(encoder: nn.Module, field: str, path: str) -> dict[str, int]:
    """
    Load an encoder's weights from a checkpoint, in fp32, and log which others stay behind.

    Args:
        encoder: The encoder, of the checkpoint's sizes.
        field, path: See `nested_config`.

    Returns:
        Module -> number of its weights that stay behind.

    Raises:
        RecipeError: weights are missing, left over, of another shape or not finite; the message lists them.
    """
    saved, own = _saved_weights(path), encoder.state_dict()
    anchor = next(name for name in own if name.endswith(".weight"))
    prefixes = [name.removesuffix(anchor) for name in saved if name == anchor or name.endswith(f".{anchor}")]
    if len(prefixes) != 1:
        raise RecipeError(f"{field}: {path} has {len(prefixes)} encoders with a weight {anchor}, not one.")
    theirs = {name.removeprefix(prefixes[0]): file for name, file in saved.items() if name.startswith(prefixes[0])}
    problems = [f"missing: {name}" for name in own.keys() - theirs.keys()]
    problems += [f"left over: {name}" for name in theirs.keys() - own.keys()] if prefixes[0] else []
    state = {}
    for name in own.keys() & theirs.keys():
        with safe_open(theirs[name], framework="pt") as file:
            value = file.get_tensor(prefixes[0] + name)
        if value.shape != own[name].shape:
            problems.append(f"shape: {name} is {tuple(value.shape)} in the checkpoint, {tuple(own[name].shape)} here")
        elif not torch.isfinite(value).all():
            problems.append(f"not finite: {name}")
        state[name] = value.to(own[name].dtype)
    if problems:
        shown = "".join(f"\n  {problem}" for problem in sorted(problems)[:LISTED])
        raise RecipeError(f"{field}: {path} does not fit; {len(problems)} weights do not match:{shown}")
    encoder.load_state_dict(state)
    others = [name for name in saved if name.removeprefix(prefixes[0]) not in own]
    left = dict(sorted(Counter(_module(name) for name in others).items()))
    logger.info("%s: %d weights of %s loaded; left behind: %s.", field, len(state), path, left or "none")
    return left


def _module(name: str) -> str:
    """The module of a weight, below the name of the base model."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "model" else 1])


def _saved_weights(path: str) -> dict[str, Any]:
    """Name of each weight of a checkpoint -> the safetensors file that holds it."""
    folder = Path(path)
    if not folder.is_dir():
        folder = Path(snapshot_download(path, allow_patterns=["*.safetensors", INDEX_NAME]))
    names = index_files(folder) if (folder / INDEX_NAME).is_file() else [SAFE_WEIGHTS_NAME]
    found = {}
    for file in (folder / name for name in names):
        check_weights(file)
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found
