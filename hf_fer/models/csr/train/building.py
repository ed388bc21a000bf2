"""The model of a csr recipe."""

import dataclasses
import logging
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedModel

from hf_fer.data.loading import DataError, LoadedData
from hf_fer.recipe.arguments import RecipeError, check_choice
from hf_fer.runtime.checkpoints import start_anew
from hf_fer.task.base import Task
from hf_fer.weights.starting_points import load_model

from ..configuration_csr import CONCEPTS, CsrConfig
from ..modeling_csr import BackboneKeysError, CsrForImageClassification
from .arguments import CsrModelArguments
from .start import check_sizes, checkpoint_config

logger = logging.getLogger(__name__)

MAX_POS_WEIGHT = 20.0

NEW_MODEL = {"assignment_scale": 10.0, "prototype_loss": "background"}
"""Fields of a new model's configuration that differ from the defaults, which are those of the paper."""


def positive_weights(labels: np.ndarray) -> list[float]:
    """Negatives over positives of each concept in labels `(n, K)`, at most `MAX_POS_WEIGHT`; soft labels count too."""
    positives = labels.sum(axis=0)
    return np.minimum((len(labels) - positives) / positives, MAX_POS_WEIGHT).tolist()


def make_model(task: Task, data: LoadedData) -> PreTrainedModel:
    """The model of the recipe's stage, with the modules that `freeze` names frozen."""
    args = task.model_args
    valid = {item.name for item in dataclasses.fields(CsrConfig)}
    for name in args.config_overrides:
        check_choice("config_overrides field", name, valid)
    config = make_config(task, data)
    if args.model_name_or_path:
        model = load_checkpoint(args.model_name_or_path, config, data.labels, task.training_args.do_train)
    else:
        model = new_model(args, config)
    for part in args.freeze or []:
        check_choice("freeze part", part, dict(model.named_children()))
        getattr(model, part).requires_grad_(False)
    model.train(model.training)
    return model


def make_config(task: Task, data: LoadedData) -> CsrConfig:
    """The checkpoint's configuration or a new one, with the recipe's overrides and the data's classes and concepts."""
    args, source = task.model_args, data.own
    names = dict(enumerate(data.labels))
    fields: dict[str, Any] = {
        "id2label": names,
        "label2id": {name: index for index, name in names.items()},
        "problem_type": f"{'multi' if source.multi_label else 'single'}_label_classification",
        "stage": args.stage,
        **({"attn_implementation": args.attn_implementation} if args.attn_implementation else {}),
        **args.config_overrides,
    }
    if args.model_name_or_path:
        before = checkpoint_config(args.model_name_or_path).to_dict()
        check_sizes(args.model_name_or_path, before, args.config_overrides)
        fields = {**before, **fields, "backbone_config": before["backbone_config"]}
    else:
        sized = {} if args.backbone == "resnet50" else {"image_size": task.data_args.image_size}
        fields = {**NEW_MODEL, **fields, "backbone": args.backbone, "concepts": source.concepts}
        fields["backbone_config"] = {**sized, **fields.get("backbone_config", {})}
    if args.stage == CONCEPTS and "train" in data.splits:
        fields["pos_weight"] = positive_weights(np.array(data.splits["train"]["concept_labels"]))
    try:
        return CsrConfig(**fields)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise RecipeError(f"config_overrides: {error}") from error


def new_model(args: CsrModelArguments, config: CsrConfig) -> CsrForImageClassification:
    """A new model, with a pretrained backbone where the recipe names its weights."""
    if args.backbone_weights is None:
        return CsrForImageClassification(config)
    try:
        return CsrForImageClassification.from_backbone_pretrained(args.backbone_weights, config)
    except BackboneKeysError as error:
        raise RecipeError(f"backbone_weights: {error}") from error


def load_checkpoint(path: str, config: CsrConfig, labels: list[str], training: bool) -> CsrForImageClassification:
    """The checkpoint's model; in training on other classes its classifier is initialised again."""
    before = checkpoint_config(path)
    known = list(before.id2label.values())
    if known != labels and not training:
        raise DataError(f"{path} has the classes {known}, the data has {labels}: it cannot be scored on them.")
    if known != labels:
        logger.warning(
            "%s has the classes %s, the data has %s: its classifier is initialised again.", path, known, labels
        )
    # Modules that stage 1 does not train may get another size in stage 2.
    later = {"prototypes", "projector", "classifier"}
    heads = later if before.stage == CONCEPTS else {"classifier"} if known != labels else set()
    model = load_model(
        CsrForImageClassification,
        path,
        config=config,
        anew=lambda name: name.partition(".")[0] in heads,
    )
    if known != labels:
        start_anew(model.classifier)
    return model
