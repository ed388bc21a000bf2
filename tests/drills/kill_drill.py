"""Kills a run with SIGKILL at random moments, resumes it, and compares its model with an uninterrupted run's:

python tests/drills/kill_drill.py RECIPE.json [--kills 10] [--save_steps 2] [--seed 0] [--json OUT] [--FIELD VALUE ...]

Other fields go to the run. Every second kill waits for a checkpoint that is being written. The exit status is 1 if any
tensor differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
MANIFEST = "manifest.json"


def start(recipe: str, output_dir: Path, *arguments: str, python: str = sys.executable) -> subprocess.Popen:
    """Start a run in its own process group; it prints one line per step."""
    command = [python, str(ROOT / "hf_fer" / "run.py"), recipe, "--output_dir", str(output_dir), *arguments]
    return subprocess.Popen(
        [*command, "--logging_steps", "1", "--disable_tqdm", "true"],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def after_steps(process: subprocess.Popen, steps: int) -> list[str]:
    """Read a run's output until it has logged `steps` steps or ended; returns the lines that were read."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        steps -= line.startswith("{'loss'")
        if steps == 0:
            break
    return lines


def unfinished(output_dir: Path) -> list[str]:
    """Names of checkpoints without a manifest."""
    return sorted(path.name for path in output_dir.glob("checkpoint-*") if not (path / MANIFEST).is_file())


def wait_for_a_save(process: subprocess.Popen, output_dir: Path) -> None:
    """Return as soon as a checkpoint is half written, or the run is over."""
    known = set(unfinished(output_dir))
    while process.poll() is None and not set(unfinished(output_dir)) - known:
        time.sleep(0.0005)


def kill(process: subprocess.Popen) -> None:
    """Send SIGKILL to a run and its workers, and wait until none of them writes any more."""
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.read()
    process.wait()
    process.stdout.close()


def finish(process: subprocess.Popen) -> None:
    """Wait for a run to end; if it failed, show its output and exit."""
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the run failed with status {process.returncode}:\n{output[-3000:]}")


def differing(folder: Path, other: Path) -> list[str]:
    """Names of the tensors that are not equal bit for bit."""
    found, expected = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    return [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]


def drill(recipe: str, fields: list[str], folder: Path, kills: int, save_steps: int, seed: int) -> dict:
    """Run a recipe once without kills and once with kills, and compare the two models."""
    saving = ("--save_strategy", "steps", "--save_steps", str(save_steps), "--eval_strategy", "steps")
    common = (*fields, *saving, "--eval_steps", str(save_steps), "--overwrite_output_dir", "false")
    finish(start(recipe, folder / "alone", *common))
    chance, lives = random.Random(seed), []
    for life in range(kills):
        process = start(recipe, folder / "killed", *common, "--resume_from_checkpoint", "true")
        steps = chance.randint(1, 2 * save_steps)
        lines = after_steps(process, steps)
        if life % 2:
            wait_for_a_save(process, folder / "killed")
        time.sleep(chance.uniform(0, 0.02))
        ended = process.poll() is not None
        kill(process) if not ended else process.stdout.close()
        resumed = next((line.split("checkpoint-")[-1].strip(" .\n") for line in lines if "Resuming from" in line), "0")
        row = {"resumed_from": resumed, "logged_steps": steps, "cut_short": unfinished(folder / "killed")}
        lives.append({**row, "ended_before": ended})
        print(f"kill {life + 1}: {lives[-1]}", flush=True)
    finish(start(recipe, folder / "killed", *common, "--resume_from_checkpoint", "true"))
    return {"kills": lives, "differing_tensors": differing(folder / "killed", folder / "alone")}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--save_steps", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args, fields = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        result = drill(args.recipe, fields, Path(folder), args.kills, args.save_steps, args.seed)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    different = result["differing_tensors"]
    print(f"{args.kills} kills; {len(different)} tensors differ from the uninterrupted run. {different[:5] or ''}")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
