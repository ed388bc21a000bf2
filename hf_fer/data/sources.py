"""Tells names of local folders from names of Hub repositories, and checks that they exist."""

import dataclasses
import difflib
from pathlib import Path

from hf_fer.data.hub import trouble
from hf_fer.recipe.arguments import ModelArguments, RecipeError

# Usual first folders of local paths; a name that begins with one is not taken for `owner/name` on the Hub.
USUAL_FOLDERS = ("outputs", "output", "checkpoints", "models", "runs", "results", "data")
FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".onnx", ".npz")


def is_missing_here(name: str) -> bool:
    """Whether a name looks like a local path that does not exist."""
    return looks_local(name) and not Path(name).exists()


def looks_local(name: str) -> bool:
    """Whether a name is certainly or most likely a local path and not `owner/name` on the Hub."""
    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name.endswith(("/", *FILE_ENDINGS)):
        return True
    first, slash, _ = name.partition("/")
    folders = [path.name for path in Path().iterdir() if path.is_dir()]
    return bool(slash) and bool(difflib.get_close_matches(first, [*USUAL_FOLDERS, *folders], n=1, cutoff=0.8))


def check_sources(model_args: ModelArguments, dataset: str) -> None:
    """Raises `RecipeError` where a local path of a checkpoint or of data is missing, or a model is not on the Hub."""
    named = {
        name: value
        for name, value in dataclasses.asdict(model_args).items()
        if isinstance(value, str) and (name == "model_name_or_path" or name.endswith("_backbone"))
    }
    if dataset.count("/") == 1:
        named["dataset"] = dataset
    for name, value in named.items():
        if is_missing_here(value):
            what = "data" if name == "dataset" else "model of this system"
            raise RecipeError(
                f"{name}: {value} has no {what} that can be loaded (there is no such folder or file). Correct the "
                "path; if another recipe creates it, run that first."
            )
        if name != "dataset":
            check_on_hub(name, value)


def check_on_hub(field: str, name: str) -> None:
    """Raises `RecipeError` where a model is neither a local path nor available on the Hub."""
    reason = None if Path(name).exists() else trouble(name)
    if reason:
        raise RecipeError(f"{field}: {name} is no local folder and cannot be downloaded from the Hub ({reason}).")
