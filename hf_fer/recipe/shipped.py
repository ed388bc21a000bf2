"""Files that come with the package: recipes, Accelerate configurations and card texts."""

from pathlib import Path


def shipped_folder(name: str) -> Path:
    """
    Path of the folder `training_args`, `accelerate_configs` or `model_cards`.

    An installed wheel has these folders inside the package, a checkout has them beside it.
    """
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def shipped_recipes() -> dict[str, Path]:
    """Files of the recipes that come with the package, by name: `ravdess_audio`, `demo/multimodal_fer`."""
    folder = shipped_folder("training_args")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.json"))}


def find_recipe(name: str) -> Path:
    """
    Path of a recipe's file.

    Args:
        name: A path, or the name of a recipe that comes with the package; an existing file takes precedence.
    """
    return Path(name) if Path(name).is_file() else shipped_recipes().get(name, Path(name))
