"""Kills `hf-fer predict` in two processes twice with SIGKILL, and compares the rows with those of one process.

python tests/drills/predict_drill.py [--clips 2000] [--bad 7] [--json OUT]

The clips are tones of 0.3 to 0.6 s, and `--bad` of them are text files; the model is small, takes audio only and has
random weights. As for a user, `hf-fer predict` runs in a process of its own, which starts two more. This process alone
gets SIGKILL when a third and when two thirds of the shards are written.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]
SHARD = 50


def make_clips(folder: Path, count: int, bad: int) -> list[Path]:
    """Write `count` sound files, of which `bad`, evenly spread, contain text."""
    from media import tone, write_clip

    draw = np.random.default_rng(0)
    broken = set(np.linspace(5, count - 1, bad).astype(int).tolist())
    files = [folder / f"{number:05d}.wav" for number in range(count)]
    for number, file in enumerate(files):
        if number in broken:
            file.write_text("no sound")
        else:
            write_clip(file, audio=tone(draw.uniform(0.3, 0.6), 16000, frequency=draw.uniform(150, 900)))
    return files


def start(model: Path, clips: Path, output: Path, processes: int, *more: str) -> subprocess.Popen:
    """Start the command, with `more` options."""
    words = [sys.executable, "-m", "hf_fer.cli", "predict", str(model), str(clips), "--output", str(output)]
    words += ["--num_processes", str(processes), "--shard_size", str(SHARD), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def kill_at(process: subprocess.Popen, parts: Path, count: int) -> int:
    """Send SIGKILL once `count` shards are written; returns how many there were."""
    while (found := len(list(parts.glob("[0-9]*.parquet")))) < count:
        if process.poll() is not None:
            raise SystemExit(f"the command ended before it could be killed: {process.stdout.read()[-2000:]}")
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return found


def finish(process: subprocess.Popen) -> str:
    """Wait for a command to succeed; returns the line of its output that counts the answers."""
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"status {process.returncode}: {printed[-2000:]}")
    return next(line for line in printed.splitlines() if " without an answer" in line).rpartition("\r")[2]


def main() -> None:
    """Run the drill, and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--bad", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from recording_memory import save_model

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clips").mkdir()
        files = make_clips(folder / "clips", args.clips, args.bad)
        save_model(folder / "model", "tiny", ["audio"])
        one, two, shards = folder / "one.parquet", folder / "two.parquet", -(-args.clips // SHARD)
        begun = time.perf_counter()
        printed = finish(start(folder / "model", folder / "clips", one, 1))
        found = {"one process": printed, "seconds of one process": round(time.perf_counter() - begun)}
        parts = folder / "two.parquet.parts"
        found["shards at the kills"] = [
            kill_at(start(folder / "model", folder / "clips", two, 2), parts, shards * third // 3) for third in (1, 2)
        ]
        finish(start(folder / "model", folder / "clips", two, 2))
        table = pq.read_table(two)
        found |= {
            "each input once and in order": table["input"].to_pylist() == [str(file) for file in files],
            "rows with a reason": args.clips - table["error"].null_count,
            "equal to one process": table.equals(pq.read_table(one)),
            "shards left behind": parts.exists(),
        }
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
