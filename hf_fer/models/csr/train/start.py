"""What a stage of csr may start from, and what that settles."""

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


def checkpoint_config(path: str) -> CsrConfig:
    """The configuration of `model_name_or_path`; raises RecipeError where there is none."""
    check_on_hub("model_name_or_path", path)
    try:
        # A folder without config.json would come out as the defaults.
        found = CsrConfig.get_config_dict(path)[0].get("model_type")
        if found == CsrConfig.model_type:
            return read(CsrConfig.from_pretrained, path)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model_name_or_path: {path} has no csr model ({error}).") from error
    raise RecipeError(f"model_name_or_path: {path} has no csr model, but {found or 'no config.json'}.")


def check_start(task: Task) -> None:
    """Raises `RecipeError` where the stage cannot start from the checkpoint or the backbone that the recipe names."""
    args, stage = task.model_args, task.model_args.stage
    if task.training_args.extra_metrics and stage != TASK:
        raise RecipeError(f"extra_metrics are computed of classes, which stage {stage} does not give; leave them out.")
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
            f"Stage {stage} of fold 'all' starts each fold from the stage before of the same fold, and "
            f"{args.model_name_or_path} has no fold_0: a model of all the data has seen what it would be tested "
            "on. Run the stage before it with fold 'all', too."
        )
    if args.backbone_weights:
        raise RecipeError("backbone_weights is for a new model; model_name_or_path brings its own.")
    found = checkpoint_config(args.model_name_or_path).stage
    allowed = {stage, max(stage - 1, 1)} if task.training_args.do_train else {stage}
    if found not in allowed:
        raise RecipeError(
            f"Stage {stage} cannot start from {args.model_name_or_path}, a stage-{found} checkpoint: "
            + WHY_NOT.get((stage, found), "it has come further already.")
        )
