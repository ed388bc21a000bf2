"""Trains the same small model by several arrangements of two processes on the CPU, and compares the weights.

python tests/drills/processes_drill.py [--only NAME ...] [--json OUT]

one: one process with twice the batch. ddp: two processes of one machine. machines: two launches on loopback, as two
machines that share a disk. fsdp: FSDP2 with the settings of accelerate_configs/fsdp.yaml in fp32. deepspeed: ZeRO-2
with those of accelerate_configs/deepspeed_zero2.yaml in fp32, on DeepSpeed's CPU accelerator. Accelerate allows both
on other accelerators only, so this script tells it that processes of the CPU may (`fsdp_on_cpu`, `deepspeed_on_cpu`).
restart and restart_machines: ddp and machines under `torchrun --max_restarts`, where the second process is killed
after the second epoch, and torchrun starts both again, to go on from the last checkpoint. fsdp_resumed and
deepspeed_resumed: all processes are killed then, and the command is given again.

Each run trains four epochs on sound and pictures without dropout, saves, loads its best checkpoint and reports.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

ALLOWED = "PROCESSES_DRILL"
"""Environment variable that tells a process of `run` which of the functions below to call."""
LIMIT_S = 600
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TWO = ["--standalone", "--nproc_per_node", "2"]
# Without it restarted processes read the addresses of the killed ones (https://github.com/pytorch/pytorch/issues/135712).
OWN_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def fsdp_on_cpu() -> None:
    """Let Accelerate use FSDP in several processes of the CPU, which it does on accelerators only."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    initialise = AcceleratorState.__init__

    def with_fsdp(state: AcceleratorState, *arguments, fsdp_plugin=None, **fields) -> None:
        initialise(state, *arguments, fsdp_plugin=fsdp_plugin, **fields)
        if fsdp_plugin is not None and state.distributed_type == DistributedType.MULTI_CPU:
            state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            state.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = with_fsdp


def deepspeed_on_cpu() -> None:
    """Let Accelerate count the processes of DeepSpeed on the CPU, where it takes each for the only one."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    initialise = PartialState.__init__

    def with_deepspeed(state: PartialState, *arguments, **fields) -> None:
        initialise(state, *arguments, **fields)
        if torch.distributed.is_initialized() and state.backend is None:
            state.backend, state.device = "gloo", torch.device("cpu")
            state.distributed_type = DistributedType.DEEPSPEED
            state.num_processes, state.process_index = torch.distributed.get_world_size(), torch.distributed.get_rank()
            state.local_process_index = int(os.environ["LOCAL_RANK"])

    PartialState.__init__ = with_deepspeed


def deepspeed_environment() -> dict[str, str]:
    """Environment variables that `accelerate launch` sets for the DeepSpeed configuration file."""
    stage = yaml.safe_load((ROOT / "accelerate_configs" / "deepspeed_zero2.yaml").read_text())["deepspeed_config"]
    return {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage["zero_stage"]),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": stage["gradient_accumulation_steps"],
        "ACCELERATE_GRADIENT_CLIPPING": stage["gradient_clipping"],
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": stage["offload_optimizer_device"],
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": stage["offload_param_device"],
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
        "DS_ACCELERATOR": "cpu",
        ALLOWED: "deepspeed_on_cpu",
    }


def fsdp_environment() -> dict[str, str]:
    """Environment variables that `accelerate launch` sets for the FSDP configuration file."""
    config = yaml.safe_load((ROOT / "accelerate_configs" / "fsdp.yaml").read_text())["fsdp_config"]
    values = {
        name.upper(): str(value).lower() if isinstance(value, bool) else str(value) for name, value in config.items()
    }
    return {"ACCELERATE_USE_FSDP": "true", ALLOWED: "fsdp_on_cpu", **values}


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(launcher: list[str], recipe: str, log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen:
    """Start one launch of this file, which trains."""
    with log.open("w") as output:
        return subprocess.Popen(
            [*launcher, __file__, recipe],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )


def wait_for(checkpoint: Path, launches: list[subprocess.Popen]) -> None:
    """Wait until a checkpoint is there."""
    end = time.monotonic() + LIMIT_S
    while not checkpoint.is_dir():
        if any(launch.poll() is not None for launch in launches) or time.monotonic() > end:
            raise SystemExit(f"{checkpoint} was not written")
        time.sleep(0.1)


def kill_second_process(launches: list[subprocess.Popen]) -> None:
    """Kill the process of rank 1."""
    workers = [worker for launch in launches for worker in psutil.Process(launch.pid).children()]
    next(worker for worker in workers if worker.environ().get("RANK") == "1").send_signal(signal.SIGKILL)


def kill_all(launches: list[subprocess.Popen]) -> None:
    """Kill the launches that run, and all of their processes."""
    for launch in launches:
        if launch.poll() is None:
            for process in [*psutil.Process(launch.pid).children(recursive=True), launch]:
                process.kill()
            launch.wait()


def launches_of(name: str, recipe: str, folder: Path) -> list[subprocess.Popen]:
    """Start the launches of an arrangement."""
    port = str(free_port())
    if name == "machines":
        place = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port]
        ranks = [[*TORCHRUN, *place, "--node_rank", str(rank)] for rank in range(2)]
        return [start(launcher, recipe, folder / f"{rank}.log") for rank, launcher in enumerate(ranks)]
    if name == "restart_machines":
        place = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "drill"]
        launcher = [*TORCHRUN, "--nnodes", "2", "--nproc_per_node", "1", "--max_restarts", "3", *place]
        return [start(launcher, recipe, folder / f"{rank}.log", OWN_STORE) for rank in range(2)]
    launchers = {"one": [sys.executable], "restart": [*TORCHRUN, *TWO, "--max_restarts", "3"]}
    own = {"fsdp": fsdp_environment(), "deepspeed": deepspeed_environment(), "restart": OWN_STORE}
    environment = own.get(name.removesuffix("_resumed"))
    return [start(launchers.get(name, [*TORCHRUN, *TWO]), recipe, folder / "0.log", environment)]


def run(name: str, folder: Path, fields: dict, kill_after: int) -> dict:
    """Train by one arrangement; returns the seconds taken and the exit status."""
    from runs import write_recipe

    is_killed = name.startswith("restart") or name.endswith("_resumed")
    batch = fields["per_device_train_batch_size"] * (2 if name == "one" else 1)
    more = {"resume_from_checkpoint": "true"} if is_killed else {}
    more |= {"use_cpu": False} if name.startswith("deepspeed") else {}  # Accelerate would not use DeepSpeed
    recipe = write_recipe(folder, **{**fields, "per_device_train_batch_size": batch, **more})
    begun = time.monotonic()
    launches = launches_of(name, recipe, folder)
    if is_killed:
        wait_for(folder / "out" / f"checkpoint-{kill_after}", launches)
        if name.startswith("restart"):
            kill_second_process(launches)
        else:
            kill_all(launches)
            launches = launches_of(name, recipe, folder)
    for launch in launches:
        with contextlib.suppress(subprocess.TimeoutExpired):
            launch.wait(max(1.0, begun + LIMIT_S - time.monotonic()))
    kill_all(launches)
    return {"exit_status": max(abs(launch.wait()) for launch in launches), "seconds": round(time.monotonic() - begun)}


def compare(folder: Path, expected: Path) -> dict:
    """Largest difference of weights, of training losses and of scores between two runs."""
    from runs import metrics_of

    found, wanted = (load_file(run_folder / "model.safetensors") for run_folder in (folder, expected))
    if found.keys() != wanted.keys():
        raise SystemExit(f"{folder} and {expected} have different weights")
    histories = [
        {
            entry["step"]: entry["loss"]
            for entry in json.loads((place / "trainer_state.json").read_text())["log_history"]
            if "loss" in entry
        }
        for place in (folder, expected)
    ]
    scores = [metrics_of(place)["validation"]["uar"] for place in (folder, expected)]
    return {
        "weights": max((found[name].float() - wanted[name].float()).abs().max().item() for name in wanted),
        "losses": max(abs(histories[0][step] - loss) for step, loss in histories[1].items()),
        "uar": abs(scores[0] - scores[1]),
    }


def main() -> None:
    """Command line; prints a table of the differences from `ddp`."""
    from hf_fer.models.multimodal_fer.train.demo import make_demo_ravdess

    names = ["ddp", "one", "machines", "fsdp", "fsdp_resumed", "restart", "restart_machines"]
    if importlib.util.find_spec("deepspeed"):
        names += ["deepspeed", "deepspeed_resumed"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        root = make_demo_ravdess(folder / "set", num_actors=6)
        rows = [
            {"video": str(path), "audio": str(path), "label": path.name[6:8], "group": path.parent.name}
            for path in sorted(root.rglob("*.mp4"))
        ]
        for row in rows:
            row["split"] = "train" if int(row["group"][-2:]) <= 4 else "validation"
        (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        fields = fields_of(folder / "clips.jsonl")
        steps = sum(row["split"] == "train" for row in rows) // (2 * fields["per_device_train_batch_size"])
        found = {}
        for name in dict.fromkeys(["ddp", *args.only]):
            found[name] = run(name, folder / name, fields, kill_after=2 * steps)
            if found[name]["exit_status"]:
                found[name]["log"] = (folder / name / "0.log").read_text(errors="replace")[-1500:]
            else:
                found[name] |= compare(folder / name / "out", folder / "ddp" / "out")
            print(name, found[name], flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def fields_of(clips: Path) -> dict:
    """Fields of the recipe: both modalities, no dropout, no augmentation, frozen BatchNorm statistics."""
    quiet = dict.fromkeys(("dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0)
    small = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32}
    return {
        "dataset": str(clips),
        "modalities": ["audio", "video"],
        "config_overrides": {
            "audio_config": {**small, **quiet},
            "vision_config": small,
            "temporal_num_layers": 1,
            **dict.fromkeys(("dropout", "classifier_dropout", "modality_dropout"), 0.0),
        },
        "augmentation": None,
        "freeze": ["audio"],
        "num_frames": 2,
        "image_size": 32,
        "face_crop": "none",
        "max_train_samples": None,
        "max_eval_samples": None,
        "num_train_epochs": 4,
        "per_device_train_batch_size": 8,
        "adam_epsilon": 1e-4,  # without it a gradient of rounding errors moves its weight as far as any other
    }


if __name__ == "__main__":
    if "RANK" in os.environ or (len(sys.argv) == 2 and sys.argv[1].endswith(".json")):
        {"fsdp_on_cpu": fsdp_on_cpu, "deepspeed_on_cpu": deepspeed_on_cpu}.get(os.environ.get(ALLOWED), lambda: None)()
        torch.set_num_threads(1)
        from hf_fer.run import main as train

        train(sys.argv[1:])
    else:
        main()
