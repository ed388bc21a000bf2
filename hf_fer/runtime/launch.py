"""
Starts all processes of `accelerate launch --cpu --num_processes N`.

Without MPI, Accelerate (1.15) silently starts one process only, which would train with 1/N of the intended batch.
This module replaces that process by torchrun, which starts them all.
"""

import logging
import os
import sys

import psutil
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from hf_fer.recipe.arguments import RecipeError

logger = logging.getLogger(__name__)

LAUNCHERS = ("accelerate-launch", "accelerate.commands.launch", "launch.py", "launch")


def is_alone_by_mistake() -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes and has started only this one."""
    asked = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    ranks = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
    return asked and not any(name in os.environ for name in ranks)


def processes_asked_for() -> int | None:
    """
    `--num_processes` of the launcher that is this process's parent, or of its config file.

    Returns:
        `None` where the parent is no launcher, or the launcher uses several machines.
    """
    parent = psutil.Process().parent()
    words = parent.cmdline() if parent else []
    start = next((index for index, word in enumerate(words) if os.path.basename(word) in LAUNCHERS), None)
    if start is None:
        return None
    asked = launch_command_parser().parse_args(words[start + 1 :])
    if asked.config_file is not None:
        config = load_config_from_file(asked.config_file)
        asked.num_processes = asked.num_processes or config.num_processes
        asked.num_machines = asked.num_machines or config.num_machines
    return asked.num_processes if asked.num_machines in (None, 1) else None


def start_all_processes() -> None:
    """
    Replace this process by torchrun where the launcher has started only one of several processes.

    Raises:
        RecipeError: the number of processes cannot be found out.
    """
    if not is_alone_by_mistake():
        return
    count = processes_asked_for()
    if count is None:
        raise RecipeError(
            "accelerate launch --cpu was asked for several processes and has started one: it needs MPI for more. Use "
            "torchrun --nproc_per_node N hf_fer/run.py RECIPE.json --use_cpu true."
        )
    logger.warning("accelerate launch --cpu has started one process of %d; torchrun starts them all.", count)
    rendezvous = ["--master_addr", os.environ["MASTER_ADDR"], "--master_port", os.environ["MASTER_PORT"]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), *rendezvous]
    os.execv(sys.executable, [*torchrun, *sys.orig_argv[1:]])
