"""Which backbones a recipe may name, with which weights, and how pixels are normalised for these."""

from pathlib import Path
from typing import Any

from hf_fer.data.sources import check_on_hub, looks_local
from hf_fer.recipe.arguments import RecipeError, check_choice, nearest

from ..backbone_csr import PRETRAINED
from ..configuration_csr import BACKBONES, TIMM
from .arguments import CsrModelArguments


def check_backbone(args: CsrModelArguments) -> None:
    """
    Look up a recipe's backbone and its weights, before data are read.

    Raises:
        RecipeError: there is no backbone of that name, or no such weights.
    """
    name, weights = args.backbone, args.backbone_weights
    if not name.startswith(TIMM):
        check_choice("backbone", name, [*BACKBONES, f"{TIMM}NAME"])
    else:
        check_timm(name)
    if weights == PRETRAINED:
        if not name.startswith(TIMM):
            raise RecipeError(f"backbone_weights {PRETRAINED!r} is for a backbone of timm, not for {name!r}.")
        check_on_hub("backbone_weights", pretrained_config(name).hf_hub_id)
    elif weights and not Path(weights).exists():
        hint = f"; from the Hub: hf download {weights} --local-dir FOLDER, then --backbone_weights FOLDER"
        raise RecipeError(
            f"backbone_weights: there is no {weights}. Give a weights file, or a folder with model.safetensors"
            f"{hint if weights.count('/') == 1 and not looks_local(weights) else ''}."
        )


def check_timm(name: str) -> None:
    """Raises `RecipeError` where timm has no model of that name; the message suggests the nearest."""
    import timm  # here, because it takes a second

    if not timm.is_model(name.removeprefix(TIMM)):
        known = [f"{TIMM}{model}" for model in timm.list_models()]
        raise RecipeError(f"backbone: timm has no model {name!r}{nearest(name, known)} timm.list_models() names all.")


def pretrained_config(name: str) -> Any:
    """timm's description of its default weights of a model."""
    import timm

    return timm.get_pretrained_cfg(name.removeprefix(TIMM))


def timm_statistics(name: str) -> dict[str, list[float]]:
    """`image_mean` and `image_std` that timm's weights of that backbone were trained with."""
    pretrained = pretrained_config(name)
    return {"image_mean": list(pretrained.mean), "image_std": list(pretrained.std)}
