"""Weights that are put into a model: all of them, or a message that lists what would be left.

transformers saves some layers under other names than `state_dict()` has (those of ViT), which `from_pretrained`
translates, and the Trainer, which loads its checkpoints with `load_state_dict(strict=False)`, does not.
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
    Meanwhile, `load_state_dict` on the model gives it every weight, under whichever name it was saved.

    Of a model with adapters, every weight that trains. FSDP and DeepSpeed load in their own ways, which are strict.

    Raises:
        RecipeError: in the block, by the load that would leave weights of the model as they are or has others.
    """
    handle = model.register_load_state_dict_pre_hook(_make_whole)
    try:
        yield
    finally:
        handle.remove()


def _make_whole(model: nn.Module, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """A hook of `load_state_dict`: put the names of a state right in place."""
    if isinstance(model, PreTrainedModel) and set(state) != set(model.state_dict()):
        renamed = in_own_names(model, state)
        state.clear()
        state.update(renamed)
    check_whole(model, state)


def in_own_names(model: PreTrainedModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that `save_pretrained` writes -> those that `state_dict()` of the model has."""
    loaded, info = type(model).from_pretrained(
        None, config=copy.deepcopy(model.config), state_dict=dict(state), output_loading_info=True
    )
    left = set(info["missing_keys"])
    found = {name: value for name, value in loaded.state_dict().items() if name not in left}
    return {**found, **{name: state[name] for name in info["unexpected_keys"] if name in state}}


def check_whole(model: nn.Module, state: dict[str, Tensor]) -> None:
    """
    Compare the names of a state with those of a model.

    Raises:
        RecipeError: the model has weights that the state lacks, or lacks some that the state has; it lists them.
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
            f"The weights do not fit the model {type(model).__name__}, of which a part would stay as it was. Load "
            f"them into a model of the recipe that they were trained with.{listed}"
        )


def _short(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
