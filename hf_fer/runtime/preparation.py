"""Checks and settings of a run before it reads any data: output folder, resumption, threads, Hub access."""

import logging
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from accelerate.utils import gather_object
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from hf_fer.data.hub import unreachable
from hf_fer.recipe.arguments import RecipeError, TrainingArguments
from hf_fer.runtime import output_folder
from hf_fer.runtime.checkpoints import check_named, check_processes, checkpoint_folders, newest_whole

logger = logging.getLogger(__name__)


@dataclass
class Start:
    """
    How a run starts.

    Args:
        resume: Checkpoint folder that `Trainer.train` resumes from, or False.
        replaces: Whether the files of an earlier run in `output_dir` are removed once data and model have loaded.
    """

    resume: bool | str = False
    replaces: bool = False


def prepare_output(args: TrainingArguments, model_path: str | None = None) -> Start:
    """
    Decide how a run starts by what is in `output_dir`, without changing it.

    Args:
        args: The run's arguments.
        model_path: Checkpoint that the recipe starts from, if any.

    Raises:
        RecipeError: the folder holds an earlier run that the recipe neither resumes nor overwrites, or files that no
            run wrote; the named checkpoint cannot be resumed from; or processes, on machines that do not share
            `output_dir`, would resume from different checkpoints.
    """
    found = resumption(args)
    answers = gather_object([found.resume])
    if len(set(answers)) > 1:
        raise RecipeError(
            f"The processes would resume from different checkpoints, {', '.join(sorted(map(str, set(answers))))}: "
            f"their machines do not share {args.output_dir}. Put it on a shared disk, or train with "
            "--save_on_each_node true from the start."
        )
    folder = Path(args.output_dir).resolve()
    if found.replaces and args.do_train and model_path and Path(model_path).resolve().is_relative_to(folder):
        raise RecipeError(
            f"model_name_or_path: {model_path} is in output_dir and would be removed with the earlier run. Give "
            "another --output_dir."
        )
    return found


def resumption(args: TrainingArguments) -> Start:
    """How one process would start; see `prepare_output`."""
    folder, resume = Path(args.output_dir), args.resume
    if isinstance(resume, str):
        check_named(Path(resume))
        check_processes(Path(resume), args.world_size)
        if not Path(resume).resolve().is_relative_to(folder.resolve()):
            output_folder.check_ours(folder)
        return Start(resume)
    if resume:
        newest = newest_whole(folder)
        if newest:
            check_processes(newest, args.world_size)
            logger.warning("Resuming from %s.", newest)
            return Start(str(newest))
        logger.warning("No checkpoint yet: a new run.")
    output_folder.check_ours(folder)
    if resume and args.hp_trials:
        return Start()  # a search continues its study
    if args.do_train and not args.overwrite_output_dir:
        if checkpoint_folders(folder) and not resume:
            raise RecipeError(
                f"{folder} holds the checkpoints of an earlier run. Add --resume_from_checkpoint true to continue "
                "it, --overwrite_output_dir true to start over, or another --output_dir."
            )
        if output_folder.is_finished(folder):
            raise RecipeError(
                f"{folder} holds a finished run, and no checkpoint to resume from. Add --overwrite_output_dir true to "
                "replace it, or give another --output_dir."
            )
    return Start(replaces=output_folder.is_ours(folder) or (folder / output_folder.REPORT).is_dir())


def replace_earlier(args: TrainingArguments, start: Start) -> None:
    """Remove the earlier run if this one replaces it, and write the marker of `output_dir`."""
    folder = Path(args.output_dir)
    if args.should_save:
        if start.replaces:
            output_folder.clear(folder)
        output_folder.begin(folder)
    args.distributed_state.wait_for_everyone()


def share_cores(args: TrainingArguments) -> None:
    """
    On a CPU, lower the number of torch's threads so that each data loader worker has its own core.

    If OpenMP threads share a core with a worker, the other threads wait for them, and a step takes many times longer.
    """
    if args.device.type == "cpu" and args.dataloader_num_workers:
        cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
        free = (cores or 1) // args.world_size - args.dataloader_num_workers
        torch.set_num_threads(max(1, min(torch.get_num_threads(), free)))


def check_hub_access(args: TrainingArguments) -> None:
    """
    If the recipe pushes to the Hub, check before training that the account can log in.

    Raises:
        RecipeError: the Hub cannot be reached, or the token is missing or wrong.
    """
    if not args.push_to_hub:
        return
    if reason := unreachable():
        raise RecipeError(f"push_to_hub: {reason}. Connect this machine, or set push_to_hub to false.")
    try:
        HfApi(token=args.hub_token).whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(
            f"push_to_hub: the Hub refuses this account ({reason}). Run `hf auth login` with a write token, or set "
            "push_to_hub to false."
        ) from error
