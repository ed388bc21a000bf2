"""How texts become windows of tokens: the one home of these settings."""

from dataclasses import dataclass

from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.base import Task

from .source import checkpoint_config


@dataclass(frozen=True)
class WindowSettings:
    """
    Windows of long texts.

    Args:
        max_length: Tokens of a window, with special ones.
        overlap: Tokens that neighbouring windows share.
    """

    max_length: int
    overlap: int

    @classmethod
    def of(cls, task: Task) -> "WindowSettings":
        """
        The settings of the recipe; those of the checkpoint where the recipe does not give them.

        Raises:
            RecipeError: they do not go together.
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
                + (f"; what the recipe leaves out is {path}'s." if stored else ".")
            )
        return cls(**values)
