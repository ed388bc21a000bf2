"""Loads all weights of a model from a checkpoint, or fails with a list of the weights that do not match.

transformers saves some layers (those of ViT) under other names than `state_dict()` has. `from_pretrained` translates
the names; the Trainer, which loads its checkpoints with `load_state_dict(strict=False)`, does not.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_fer.recipe.arguments import RecipeError

LISTED = 20


@contextmanager
def whole_loads(model: nn.Module) -> Iterator[None]:
    """
    Inside the block, `load_state_dict` on the model loads every weight, under whichever name it was saved.

    For a model with adapters, these are the weights that train. FSDP and DeepSpeed load checkpoints strictly by
    themselves.

    Raises:
        RecipeError: a load inside the block lacks weights of the model, or has others.
    """
    handle = model.register_load_state_dict_pre_hook(_make_whole)
    try:
        yield
    finally:
        handle.remove()


def _make_whole(model: nn.Module, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """Hook of `load_state_dict`: translate the names of a state dict in place, and check them."""
    if isinstance(model, PreTrainedModel) and set(state) != set(model.state_dict()):
        renamed = in_own_names(model, state)
        state.clear()
        state.update(renamed)
    check_whole(model, state)


def in_own_names(model: PreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names that `save_pretrained` writes to those of the model's `state_dict()`."""
    loaded, info = type(model).from_pretrained(
        None, config=copy.deepcopy(model.config), state_dict=dict(state), output_loading_info=True
    )
    left = set(info["missing_keys"])
    found = {name: value for name, value in loaded.state_dict().items() if name not in left}
    return {**found, **{name: state[name] for name in info["unexpected_keys"] if name in state}}


def check_whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """
    Compare the names of a state dict with those of a model.

    Raises:
        RecipeError: the state dict lacks weights of the model, or has others; the message lists them.
    """
    own = set(model.state_dict())
    if isinstance(model, PeftModel):
        wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    else:
        wanted = own - set(getattr(model, "all_tied_weights_keys", None) or ())
    problems = {"missing": sorted(wanted - set(state)), "left over": sorted(set(state) - own)}
    if any(problems.values()):
        listed = "".join(f"\n{kind}: {_short(names)}" for kind, names in problems.items() if names)
        raise RecipeError(
            f"The weights do not fit the model {type(model).__name__}: some would be missing or unused. Load them "
            f"into a model of the recipe that they were trained with.{listed}"
        )


def _short(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
