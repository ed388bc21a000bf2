"""`hf-fer predict` beside the bare pipeline: clips a second in one process, and memory as the answers go by.

python benchmarks/predict.py [--clips 400] [--rounds 3] [--batch_size 8] [--num_processes 2] [--json OUT]

The clips are the demo's, about a second of sound and pictures each, repeated as often as it takes; the model has
random weights. A round is, one after the other, `pipeline(...)` over a list of the files and `predict_to_file` over
the same files, each from the model's folder to the last answer, with everything imported before. The ratio is that
of the round, so that what else the machine does slows both. With `--num_processes` above 1 a third column has that
many processes, whose starting is in its time.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from recording_memory import save_model
from transformers import pipeline

import hf_fer
from hf_fer.inference.jobs import Settings, predict_to_file
from hf_fer.models.multimodal_fer.train.demo import make_demo_ravdess

TASK = "audio-visual-emotion-recognition"


def seconds_of(work: Callable[[], object]) -> float:
    """How long something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure_round(folder: Path, clips: list[str], batch_size: int, num_processes: int) -> dict[str, float]:
    """Seconds of each way, by its name."""

    def bare() -> None:
        answers = pipeline(TASK, model=str(folder / "model"))(clips, batch_size=batch_size)
        assert len(answers) == len(clips)

    def predict(count: int) -> None:
        job = Settings(
            str(folder / "model"),
            clips,
            str(folder / "out.parquet"),
            batch_size=batch_size,
            num_processes=count,
            overwrite=True,
        )
        assert predict_to_file(job)["inputs"] == len(clips)

    found = {"bare pipeline": seconds_of(bare), "predict": seconds_of(lambda: predict(1))}
    if num_processes > 1:
        found[f"predict, {num_processes} processes"] = seconds_of(lambda: predict(num_processes))
    return found


def memory_growth(model: Path, clips: list[str], batch_size: int) -> dict[str, float]:
    """Resident MiB of this process when a quarter of the answers, and when all of them, have been given."""
    process, given, found = psutil.Process(), 0, {}
    for given, _ in enumerate(hf_fer.predict(model, iter(clips), batch_size=batch_size), 1):
        if given == len(clips) // 4:
            found["a quarter"] = process.memory_info().rss / 2**20
    assert given == len(clips)
    return {**found, "all": process.memory_info().rss / 2**20}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_processes", type=int, default=1)
    parser.add_argument("--size", default="tiny", help="preset of the model")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model", args.size, ["audio", "video"])
        files = [str(path) for path in sorted(make_demo_ravdess(folder / "clips", num_actors=4).rglob("*.mp4"))]
        clips = [files[number % len(files)] for number in range(args.clips)]
        rounds = [measure_round(folder, clips, args.batch_size, args.num_processes) for _ in range(args.rounds + 1)][
            1:
        ]  # the first one warms the file cache and the libraries
        memory = memory_growth(folder / "model", clips, args.batch_size)
    ways = list(rounds[0])
    print(f"| round | {' | '.join(f'{way}, clips/s' for way in ways)} | predict / bare |")
    print("| --- " * (len(ways) + 2) + "|")
    ratios = [found["bare pipeline"] / found["predict"] for found in rounds]
    for number, (found, ratio) in enumerate(zip(rounds, ratios, strict=True), 1):
        print(f"| {number} | {' | '.join(f'{args.clips / found[way]:.1f}' for way in ways)} | {ratio:.3f} |")
    print(f"median ratio: {statistics.median(ratios):.3f}")
    print("resident MiB: " + ", ".join(f"{value:.0f} after {when}" for when, value in memory.items()))
    if args.json:
        content = {"settings": {**vars(args), "json": None}, "rounds": rounds, "ratios": ratios, "memory": memory}
        args.json.write_text(json.dumps(content, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
