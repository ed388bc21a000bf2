"""What a csr checkpoint settles for the stage that starts from it."""

from typing import Any

from hf_fer.recipe.arguments import RecipeError

from ..configuration_csr import CONCEPTS


def check_sizes(path: str, before: dict[str, Any], overrides: dict[str, Any]) -> None:
    """
    Look for sizes that `config_overrides` gives to layers which the checkpoint has trained already.

    Args:
        path: The checkpoint.
        before: Its configuration.
        overrides: `config_overrides` of the recipe.

    Raises:
        RecipeError: naming the field.
    """
    fixed = ["backbone", "concepts", "num_concepts"]
    if before["stage"] != CONCEPTS:
        fixed += ["num_prototypes", "prototype_size"]
    given = dict(overrides)
    sizes = given.pop("backbone_config", {})
    wrong = [
        *((name, before[name]) for name in fixed if given.get(name, before[name]) != before[name]),
        *(
            (f"backbone_config.{name}", before["backbone_config"].get(name))
            for name, value in sizes.items()
            if value != before["backbone_config"].get(name)
        ),
    ]
    for name, value in wrong:
        raise RecipeError(
            f"config_overrides: {name} is that of {path}, {value}; set it in the recipe of the stage that trains it "
            "first."
        )
