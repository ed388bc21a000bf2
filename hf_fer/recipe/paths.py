"""Removes the folders of this machine from values that others may read."""

from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any


def without_folders(value: Any, concerns: Callable[[Path], bool] = lambda path: True) -> Any:
    """
    Reduce absolute paths to their file names, in lists and dictionaries too; other values stay as they are.

    Args:
        value: A value of a recipe or a JSON file.
        concerns: Whether an absolute path is reduced; by default every one is.
    """
    if isinstance(value, Path):
        return without_folders(str(value), concerns)
    if isinstance(value, str):
        windows = PureWindowsPath(value).drive and PureWindowsPath(value).is_absolute()
        path = PureWindowsPath(value) if windows else Path(value)
        absolute = windows or value.startswith("~/") or path.is_absolute()
        return path.name if absolute and concerns(Path(value).expanduser()) else value
    if type(value) in (list, tuple):
        return type(value)(without_folders(item, concerns) for item in value)
    if type(value) is dict:
        return {key: without_folders(item, concerns) for key, item in value.items()}
    return value
