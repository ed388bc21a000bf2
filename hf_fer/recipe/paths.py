"""Paths of this machine, in what others may read."""

from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any


def without_folders(value: Any, concerns: Callable[[Path], bool] = lambda path: True) -> Any:
    """
    Cut absolute paths to their last part, in lists and dictionaries too; all else stays.

    Args:
        value: Of a recipe or a JSON file.
        concerns: Which absolute paths to cut; all by default.
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
