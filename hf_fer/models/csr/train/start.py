"""Checks what a stage of csr starts from, and the sizes that a checkpoint fixes."""

from typing import Any

from hf_fer.data.sources import check_on_hub
from hf_fer.recipe.arguments import RecipeError
from hf_fer.runtime.checkpoints import has_folds
from hf_fer.task.base import Task
from hf_fer.weights.starting_points import read

from ..configuration_csr import CONCEPTS, TASK, CsrConfig
from .backbones import check_backbone

WHY_NOT = {
    (TASK, CONCEPTS): "its prototypes have not been trained. Run stage 2 from it first, and start from its output.",
}


def check_sizes(path: str, before: dict[str, Any], overrides: dict[str, Any]) -> None:
    """
    Check that `config_overrides` leaves the sizes of layers that the checkpoint has trained.

    Args:
        path: The checkpoint.
        before: Its configuration.
        overrides: `config_overrides` of the recipe.

    Raises:
        RecipeError: a field changes one; the message names the field.
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
            f"config_overrides: {name} of {path} is {value} and cannot change; set it in the recipe of the stage that "
            "trains it first."
        )


def checkpoint_config(path: str) -> CsrConfig:
    """The configuration of `model_name_or_path`; raises RecipeError where there is none."""
    check_on_hub("model_name_or_path", path)
    try:
        # from_pretrained would give the defaults for a folder without config.json.
        found = CsrConfig.get_config_dict(path)[0].get("model_type")
        if found == CsrConfig.model_type:
            return read(CsrConfig.from_pretrained, path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: {path} has no csr model ({error}).") from error
    raise RecipeError(f"model_name_or_path: {path} has no csr model; it has {found or 'no config.json'}.")


def check_start(task: Task) -> None:
    """Raises `RecipeError` where the stage cannot start from the checkpoint or the backbone that the recipe names."""
    args, stage = task.model_args, task.model_args.stage
    if task.training_args.extra_metrics and stage != TASK:
        raise RecipeError(f"extra_metrics need classes, which stage {stage} does not predict; leave them out.")
    check_backbone(args)
    if args.model_name_or_path is None:
        if stage != CONCEPTS:
            raise RecipeError(
                f"Stage {stage} starts from a stage-{stage - 1} checkpoint: set model_name_or_path to the "
                "output_dir of the recipe before it."
            )
        return
    if task.data_args.fold == "all" and has_folds(args.model_name_or_path):
        return
    if task.data_args.fold == "all" and stage != CONCEPTS:
        raise RecipeError(
            f"Stage {stage} with fold 'all' starts each fold from the same fold of the stage before, and "
            f"{args.model_name_or_path} has no fold_0: a model trained on all the data has seen the test folds. Run "
            "the stage before with fold 'all', too."
        )
    if args.backbone_weights:
        raise RecipeError("backbone_weights is for a new model; model_name_or_path has its own backbone.")
    found = checkpoint_config(args.model_name_or_path).stage
    allowed = {stage, max(stage - 1, 1)} if task.training_args.do_train else {stage}
    if found not in allowed:
        raise RecipeError(
            f"Stage {stage} cannot start from {args.model_name_or_path}, a stage-{found} checkpoint: "
            + WHY_NOT.get((stage, found), "a later stage has been trained already.")
        )
