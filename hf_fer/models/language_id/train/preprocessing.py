"""The settings of token windows, which all code that cuts texts reads from here."""

from dataclasses import dataclass

from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.base import Task

from .source import checkpoint_config


@dataclass(frozen=True)
class WindowSettings:
    """
    Windows of long texts.

    Args:
        max_length: Tokens per window, including special ones.
        overlap: Tokens that neighbouring windows share.
    """

    max_length: int
    overlap: int

    @classmethod
    def of(cls, task: Task) -> "WindowSettings":
        """
        The settings of the recipe, or those of the checkpoint for fields that the recipe leaves out.

        Raises:
            RecipeError: the overlap does not fit the length, or the checkpoint's configuration cannot be read.
        """
        args, path = task.data_args, task.model_args.model_name_or_path
        names = ("max_length", "overlap")
        left_out = path and not set(names) <= task.given
        stored = (getattr(checkpoint_config(path), "language_id", None) or {}) if left_out else {}
        values = {
            name: stored[name] if name in stored and name not in task.given else getattr(args, name) for name in names
        }
        if not 0 <= values["overlap"] < values["max_length"] - 2:
            raise RecipeError(
                f"overlap must be in [0, max_length - 2), got {values['overlap']} of {values['max_length']}"
                + (f"; fields that the recipe leaves out are {path}'s." if stored else ".")
            )
        return cls(**values)
