"""LoRA (arXiv 2106.09685) through peft: adapters on the frozen layers whose paths match a regular expression.

The whole model is wrapped, so that a checkpoint has the adapters and all other trained modules.
"""

import dataclasses
import importlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, load_peft_weights
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, Trainer
from transformers.utils import ADAPTER_CONFIG_NAME, find_adapter_config_file

from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.weights.starting_points import check_finite, load_model, read

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraSettings:
    """
    The recipe's `lora` object.

    Args:
        rank: Rank of the update.
        alpha: Scaling factor; the update is multiplied by `alpha / rank`.
        dropout: Dropout probability on the adapter's input.
        targets: Regular expression for the full paths of the adapted linear layers; the system's own if unset.
        save: `merged` for an ordinary model, or `adapter` for the trained weights and the name of the base model.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: str | None = None
    save: str = "merged"

    @classmethod
    def from_recipe(cls, fields: dict[str, Any], default_targets: str | None) -> "LoraSettings":
        """
        Check the recipe's object.

        Raises:
            RecipeError: a field is unknown, a value is invalid, or there are no targets.
        """
        names = [item.name for item in dataclasses.fields(cls)]
        for name in fields:
            check_choice("lora field", name, names)
        settings = cls(**{"targets": default_targets, **fields})
        check_choice("lora save", settings.save, ("merged", "adapter"))
        if settings.targets is None:
            raise RecipeError("lora needs 'targets' for this system: a regular expression on full layer paths.")
        if settings.rank < 1 or settings.alpha <= 0 or not 0 <= settings.dropout < 1:
            raise RecipeError("lora needs rank of at least 1, alpha above 0 and dropout in [0, 1).")
        try:
            re.compile(settings.targets)
        except re.error as error:
            raise RecipeError(f"lora targets {settings.targets!r} is not a regular expression ({error}).") from error
        return settings


def add_lora(model: PreTrainedModel, settings: LoraSettings) -> PeftModel:
    """
    Add adapters to the targets. Modules that already train keep training and are saved with the adapters.

    Args:
        model: Model in which the targets, and all other parts that do not train, are frozen.
        settings: See `LoraSettings`.

    Raises:
        RecipeError: no linear layer matches, or one that matches is not frozen.
    """
    targets = [name for name, module in model.named_modules() if re.fullmatch(settings.targets, name)]
    adaptable = [name for name in targets if isinstance(model.get_submodule(name), nn.Linear)]
    if not adaptable:
        raise RecipeError(f"lora targets {settings.targets!r} match no linear layer of this model.")
    trained = [name for name in adaptable if model.get_submodule(name).weight.requires_grad]
    if trained:
        raise RecipeError(f"lora: {trained[0]} would train in full beside its adapter; freeze its part in the recipe.")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets,
        modules_to_save=list(trained_modules(model, "", set(adaptable))) or None,
    )
    wrapped = get_peft_model(model, config)
    wrapped.train(model.training)
    return wrapped


def trained_modules(module: nn.Module, path: str, targets: set[str]) -> Iterator[str]:
    """Paths of the largest trainable modules without targets; `RecipeError` for parameters that peft cannot save."""
    own = [name for name, parameter in module.named_parameters(recurse=False) if parameter.requires_grad]
    if own:
        raise RecipeError(
            f"lora: the parameters {own} of {path or 'the model'} train beside adapted layers; freeze them."
        )
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        if below in targets:
            continue
        # peft does not wrap containers, which have no `forward`
        container = isinstance(child, nn.ModuleDict | nn.ModuleList)
        if container or any(target.startswith(f"{below}.") for target in targets):
            yield from trained_modules(child, below, targets)
        elif any(parameter.requires_grad for parameter in child.parameters()):
            yield below


def base_model(model: nn.Module) -> PreTrainedModel:
    """The model without peft's wrapper."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def merge(trainer: Trainer, settings: LoraSettings | None) -> None:
    """After training, merge adapters into the weights, so that an ordinary model is evaluated, saved and pushed."""
    if settings is not None and settings.save == "merged":
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()


def is_adapter(path: str) -> bool:
    """Whether a folder or a Hub repository holds adapters instead of a complete model."""
    return find_adapter_config_file(path) is not None


def load_adapter_model(path: str, **overrides: Any) -> PreTrainedModel:
    """
    Load a model that was saved with `save: adapter`: load its base model, and merge the adapters into it.

    Args:
        path: Folder or Hub repository of the adapters.
        overrides: Configuration fields, as `from_pretrained` takes them.

    Raises:
        RecipeError: a file is missing, the model class is neither of hf_fer nor of transformers, the base model cannot
            be loaded, or the names of the adapters' weights do not match the model.
    """
    try:
        adapter, config = PeftConfig.from_pretrained(path), AutoConfig.from_pretrained(path, **overrides)
    except (OSError, ValueError) as error:
        needed = f"config.json and {ADAPTER_CONFIG_NAME}"
        raise RecipeError(f"{path}: adapters need {needed}, and these do not load ({error}).") from error
    names = adapter.auto_mapping
    if not names or names["parent_library"].split(".")[0] not in ("hf_fer", "transformers"):
        library = (names or {}).get("parent_library", "a library that it does not name")
        raise RecipeError(
            f"{path}: its model class is of {library}; only those of hf_fer and transformers are loaded."
        )
    model_class = getattr(importlib.import_module(names["parent_library"]), names["base_model_class"])
    try:
        base = load_base(model_class, adapter, config)
    except RecipeError as error:
        raise RecipeError(f"{path}: the base model of its adapters cannot be loaded ({error})") from error
    model = PeftModel.from_pretrained(base, path)
    left = set(load_peft_weights(path, device="cpu")) ^ set(get_peft_model_state_dict(model))
    if left:
        raise RecipeError(f"{path}: its adapters do not fit their base model: {sorted(left)}.")
    merged = model.merge_and_unload()
    check_finite(merged, path)
    return merged


def load_base(model_class: type, adapter: PeftConfig, config: PreTrainedConfig) -> PreTrainedModel:
    """
    Load the base model of adapters; only weights that are saved with the adapters may be missing.

    Raises:
        RecipeError: it cannot be loaded completely.
    """
    brought = tuple(f"{name}." for name in adapter.modules_to_save or ())
    if adapter.base_model_name_or_path:
        return load_model(
            model_class,
            adapter.base_model_name_or_path,
            anew=lambda name: name.startswith(brought),
            config=config,
        )
    backbones = getattr(config, "backbones", None) or {}
    layers = config.lfm2_config.num_hidden_layers if "fusion" in backbones else None
    build = partial(model_class.from_backbones_pretrained, **backbones, fusion_num_layers=layers)
    return read(build, config)
