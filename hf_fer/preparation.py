"""What a run makes sure of before it reads any data."""

import logging
import shutil
from pathlib import Path

import psutil
import torch
from accelerate.utils import gather_object
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from hf_fer.arguments import RecipeError, TrainingArguments
from hf_fer.checkpoints import check_named, checkpoint_folders, newest_whole

logger = logging.getLogger(__name__)


def prepare_output(args: TrainingArguments) -> bool | str:
    """
    Make room in `output_dir`.

    Returns:
        What `Trainer.train` resumes from: a checkpoint folder, or False.

    Raises:
        RecipeError: the folder holds an earlier run and nothing says what to do with it, the named checkpoint cannot
            be resumed from, or the processes, on machines that share no `output_dir`, would go on from several.
    """
    found = resumption(args)
    answers = gather_object([found])
    if len(set(answers)) > 1:
        raise RecipeError(
            f"The processes would go on from different places, {', '.join(sorted(map(str, set(answers))))}: their "
            f"machines do not share {args.output_dir}. Put it on a shared disk, or train with --save_on_each_node "
            "true from the start."
        )
    return found


def resumption(args: TrainingArguments) -> bool | str:
    """`prepare_output` of one process."""
    folder, resume = Path(args.output_dir), args.resume
    if isinstance(resume, str):
        check_named(Path(resume))
        return resume
    if resume:
        newest = newest_whole(folder)
        logger.warning("Resuming from %s.", newest) if newest else logger.warning("No checkpoint yet: a new run.")
        return str(newest) if newest else False
    if checkpoint_folders(folder) and args.do_train and not args.overwrite_output_dir:
        raise RecipeError(
            f"{folder} holds the checkpoints of an earlier run. Add --resume_from_checkpoint true to go on with it, "
            "--overwrite_output_dir true to start again, or another --output_dir."
        )
    if args.should_save and args.do_train and folder.is_dir():
        for old in [*checkpoint_folders(folder), folder / "report"]:
            shutil.rmtree(old, ignore_errors=True)
    if args.should_save:
        (folder / "report" / "skipped.jsonl").unlink(missing_ok=True)
    return False


def share_cores(args: TrainingArguments) -> None:
    """
    On a CPU, leave the data loader's workers a core each.

    OpenMP threads that have to share a core with a worker wait for one another, and a step takes many times longer.
    """
    if args.device.type == "cpu" and args.dataloader_num_workers:
        cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
        free = (cores or 1) // args.world_size - args.dataloader_num_workers
        torch.set_num_threads(max(1, min(torch.get_num_threads(), free)))


def check_hub_access(args: TrainingArguments) -> None:
    """
    Where the recipe pushes, make sure that it can, before hours of training.

    Raises:
        RecipeError: no token, a wrong one, or no Hub.
    """
    if not args.push_to_hub:
        return
    try:
        HfApi(token=args.hub_token).whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"push_to_hub: the Hub does not let this account in ({reason}). Run `hf auth login` with a write token, "
            "or set push_to_hub to false."
        ) from error
