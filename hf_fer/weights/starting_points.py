"""Loads checkpoints strictly: all weights of a model must be present, finite, and of the configured shapes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_NAME,
)

from hf_fer.recipe.arguments import RecipeError

INDEX_NAME = f"{SAFE_WEIGHTS_NAME}.index.json"
NOT_LOADABLE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError, AssertionError),
    SafetensorError,
)
REMEDY = "Copy it again, give another checkpoint, or train it again."


def nothing_anew(name: str) -> bool:
    """Default of `load_model`'s `anew`: no weight may be initialised randomly."""
    return False


def check_folder(path: str, model_type: str | None, systems: list[str]) -> None:
    """
    Check the files of a local model folder before anything else is read; any other path is not checked.

    Args:
        path: Folder of the model.
        model_type: Model type that `config.json` must have, or `None` for any that is not a system of hf_fer.
        systems: Names of all systems, which are the model types of their models.

    Raises:
        RecipeError: a file is missing, unreadable, or belongs to another system.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    found = read_object(folder / CONFIG_NAME).get("model_type")
    if not isinstance(found, str):
        raise RecipeError(f"model_name_or_path: {folder / CONFIG_NAME} names no model_type. {REMEDY}")
    if model_type is not None and found != model_type:
        raise RecipeError(
            f"model_name_or_path: {path} has no {model_type} model, but {found}. Give one of {model_type}."
        )
    if model_type is None and found in systems:
        raise RecipeError(f"model_name_or_path: {path} is a model of {found}: run it with a recipe of that system.")
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        check_weights(folder / ADAPTER_SAFE_WEIGHTS_NAME)
    elif (folder / INDEX_NAME).is_file():
        for name in index_files(folder):
            check_weights(folder / name)
    elif model_type is not None or not (folder / WEIGHTS_NAME).is_file():  # models of other libraries may be a pickle
        check_weights(folder / SAFE_WEIGHTS_NAME)


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file with one object; raises `RecipeError` where there is none."""
    if not path.is_file():
        raise RecipeError(f"model_name_or_path: {path.parent} has no model: no {path.name}. {REMEDY}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: {path} cannot be read ({error}). {REMEDY}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"model_name_or_path: {path} is no JSON object. {REMEDY}")
    return found


def index_files(folder: Path) -> list[str]:
    """The files that the index of a sharded checkpoint names; raises `RecipeError` where it names none."""
    found = read_object(folder / INDEX_NAME).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise RecipeError(f"model_name_or_path: {folder / INDEX_NAME} names no files of weights. {REMEDY}")
    return sorted(set(found.values()))


def check_labels(config: PretrainedConfig, path: str) -> None:
    """Raises `RecipeError` where the classes of a configuration are not numbered from 0, or two have one name."""
    names = config.id2label
    if sorted(names) != list(range(len(names))):
        raise RecipeError(f"model_name_or_path: {path}: id2label numbers its classes {sorted(names)}, not from 0 on.")
    twice = next((name for name in names.values() if list(names.values()).count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"model_name_or_path: {path}: id2label has {twice!r} twice. Give each class its own name.")


def check_weights(path: Path) -> None:
    """Raises `RecipeError` where a file is missing or is no complete safetensors file."""
    if not path.is_file():
        raise RecipeError(f"model_name_or_path: {path.parent} has no weights: no {path.name}. {REMEDY}")
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise RecipeError(
            f"model_name_or_path: {path} is no complete safetensors file ({error}); no other format is read. {REMEDY}"
        ) from error


def read(load: Callable[..., Any], path: str, **options: Any) -> Any:
    """Return `load(path, **options)`, such as a configuration; raises `RecipeError` where that fails."""
    try:
        return load(path, **options)
    except (*NOT_LOADABLE, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(
            f"model_name_or_path: {path} has no model that can be loaded ({reason}). {REMEDY}"
        ) from error


def load_model(
    model_class: type, path: str, *, anew: Callable[[str], bool] = nothing_anew, **options: Any
) -> PreTrainedModel:
    """
    Load a model with all weights of its checkpoint.

    Args:
        model_class: Class with `from_pretrained`.
        path: Folder or Hub repository.
        anew: Whether the weight of this name may be missing or have another shape; it is then initialised randomly.
        options: Arguments of `from_pretrained`.

    Raises:
        RecipeError: weights are missing, of another shape or not finite, or nothing can be loaded.
    """
    options = {**options, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = read(model_class.from_pretrained, path, **options)
    lacking = sorted(name for name in info["missing_keys"] if not anew(name))
    shapes = [found for found in info["mismatched_keys"] if not anew(found[0])]
    if lacking:
        raise RecipeError(
            f"model_name_or_path: {path} lacks {len(lacking)} weights of its model ({', '.join(lacking[:3])}), which "
            f"would be random. {REMEDY}"
        )
    if shapes:
        name, *sizes = shapes[0]
        raise RecipeError(
            f"model_name_or_path: {path}: {name} has the shape {tuple(sizes[0])}, the configuration asks for "
            f"{tuple(sizes[1])}. {REMEDY}"
        )
    check_labels(model.config, path)
    check_finite(model, path)
    return model


def check_finite(model: PreTrainedModel, path: str) -> None:
    """Raises `RecipeError` where a weight of the model from `path` is not finite."""
    broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise RecipeError(f"model_name_or_path: {path}: {broken[0]} has values that are not finite. {REMEDY}")
