"""Starting from a model folder strictly: all of its weights, finite, in the shapes that its configuration says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_NAME,
)

from hf_fer.recipe.arguments import RecipeError

INDEX_NAME = f"{SAFE_WEIGHTS_NAME}.index.json"
NOT_LOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)
REMEDY = "Copy it anew, give another checkpoint, or train it again."


def nothing_anew(name: str) -> bool:
    """No weight may be drawn anew."""
    return False


def check_folder(path: str, model_type: str | None, systems: list[str]) -> None:
    """
    Look at the files of a local model folder, before anything else is read; a path that is no folder is left to who
    loads it.

    Args:
        path: The folder.
        model_type: What `config.json` has to say, or `None` for any that no system of this house has.
        systems: Names of all systems, which are the model types of their models.

    Raises:
        RecipeError: a file is missing, cannot be read, or is of another system.
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
        for name in sorted(set(read_object(folder / INDEX_NAME).get("weight_map", {}).values())):
            check_weights(folder / name)
    elif model_type is not None or not (folder / WEIGHTS_NAME).is_file():  # other libraries' may be a pickle
        check_weights(folder / SAFE_WEIGHTS_NAME)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; raises `RecipeError` where there is none."""
    if not path.is_file():
        raise RecipeError(f"model_name_or_path: {path.parent} has no model: no {path.name}. {REMEDY}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: {path} cannot be read ({error}). {REMEDY}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"model_name_or_path: {path} is no JSON object. {REMEDY}")
    return found


def check_weights(path: Path) -> None:
    """Raises `RecipeError` where a file is missing or no whole safetensors file."""
    if not path.is_file():
        raise RecipeError(f"model_name_or_path: {path.parent} has no weights: no {path.name}. {REMEDY}")
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise RecipeError(
            f"model_name_or_path: {path} is no whole safetensors file ({error}); other formats are not read. {REMEDY}"
        ) from error


def read(load: Callable[..., Any], path: str, **options: Any) -> Any:
    """What `load(path, **options)` gives, a configuration say; raises `RecipeError` where it cannot be read."""
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
    A model with all weights from its checkpoint.

    Args:
        model_class: With `from_pretrained`.
        path: Folder or Hub repository.
        anew: Whether a weight, by its name, may be missing or have another shape, and is drawn anew.
        options: For `from_pretrained`.

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
    check_finite(model, path)
    return model


def check_finite(model: PreTrainedModel, path: str) -> None:
    """Raises `RecipeError` where a weight of the model from `path` is not finite."""
    broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise RecipeError(f"model_name_or_path: {path}: {broken[0]} has values that are not finite. {REMEDY}")
