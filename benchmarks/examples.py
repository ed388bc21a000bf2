"""This package beside transformers' example scripts: the same model, data and schedule, each in a process of its own.

HF_FER_DATA=DATA python benchmarks/examples.py --scripts FOLDER [--only audio ctc text image] [--rounds 1]
    [--threads 1] [--epochs N] [--examples N] [--keep FOLDER] [--json OUT]

FOLDER has run_audio_classification.py, run_speech_recognition_ctc.py, run_classification.py and
run_image_classification.py of transformers' `examples/pytorch`, which run unchanged. DATA has `fsdd`, `langid` and
`fer2013`. The environment also needs torchcodec, with which `datasets` decodes sound for the scripts.

| pair | data | model, with the same random weights for both |
| -- | -- | -- |
| audio | spoken digits of four speakers, validation on a fifth | multimodal_fer, sound only |
| ctc | the same with their transcripts | `Wav2Vec2BertForCTC`: both programs take it as it is |
| text | sentences of 20 languages in Latin script | `XLMRobertaForSequenceClassification` |
| image | faces of FER2013 as PNG files | multimodal_fer, one frame, with a convolutional stem |

Both sides run under examples_child.py, which has the clock, on a CPU in fp32, without loader workers, and with empty
caches. Both score and save after each epoch and load the best checkpoint. The child changes three things for the
scripts: `evaluate.load` gives the same metrics without the Hub; the random crops and flips that the script for images
hard-codes are off, as in the recipe; and the model of `audio` and `image` is registered with the Auto class that the
script asks for, whose lines are counted. Three choices keep them going: the model of `ctc` has a name of the Hub,
because the script resumes from a `model_name_or_path` that is a folder; sound is WAV, because that script decodes
every clip twice and torchcodec does not seek in FLAC; texts are JSON, because `datasets` 5.2 makes text of the class
numbers that the script puts in place of the class names of a CSV.

What differs all the same: the script for sound gives the model no mask of the padding; that for CTC writes all
features to disk before training, a word delimiter after every transcript, and scores what the model writes in frames
of padding, so that the table also has the WER of both saved models on the clips one by one; ours decodes every file
before training to find broken ones, drops copies, and writes a report. In `text`, a long text is cut by the script,
and scored by ours in windows.

lines: code of the script, which a user copies and edits, its arguments, and the adapter; or fields of the recipe.
step s: from the launch of the process to the end of the first optimiser step. smp/s: training samples per second over
the epochs, with decoding and preprocessing in the loop, without evaluation; later: from the end of the second step.
end s: from launch to exit. smp/cpu, cpu s: the same by CPU seconds of the process, which other programs on the machine
disturb less. MiB: largest resident set. Last: accuracy or WER on the same validation examples, at the end.
"""

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import examples_child
import jiwer
import soundfile
import torch
from examples_pairs import PAIRS, ROOT, Pair
from scipy.signal import resample_poly
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from hf_fer.data.tables import read_table

SIDES = ("hf_fer", "script")
COLUMNS = {
    "step s": "first_step_s",
    "smp/s": "samples_per_s",
    "later": "later_samples_per_s",
    "end s": "end_s",
    "smp/cpu": "samples_per_cpu_s",
    "cpu s": "end_cpu_s",
    "MiB": "peak_mib",
}
SCHEDULE = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "per_device_eval_batch_size": 64,
    "logging_steps": 50,
    "disable_tqdm": True,
    "use_cpu": True,
    "seed": 0,
    "report_to": "none",
}
"""Of both sides, beside the epochs, the batch and the learning rate of each pair."""

SCRIPT_ONLY = {
    "do_train": True,
    "do_eval": True,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 2,
    "load_best_model_at_end": True,
}
"""Defaults of a recipe that the scripts have to be told."""


def code_lines(source: str) -> int:
    """Lines that are neither blank nor comments."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in source.splitlines())


def command(pair: Pair, side: str, scripts: Path, output: Path) -> tuple[str, list[str], int]:
    """Program, command line and lines of the user's code of one side."""
    shared = {**SCHEDULE, **pair.schedule, "metric_for_best_model": pair.metric, "output_dir": str(output / "run")}
    if side == "hf_fer":
        recipe = {**pair.recipe, **shared}
        path = output / "recipe.json"
        path.write_text(json.dumps(recipe, indent=2), encoding="utf-8")
        return str(ROOT / "hf_fer/run.py"), [str(path)], len(recipe)
    arguments = {**pair.arguments, **shared, **SCRIPT_ONLY}
    argv = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
    adapters = [examples_child.NEEDS[need] for need in pair.needs if need.endswith("_model")]
    sources = [(scripts / pair.script).read_text(encoding="utf-8"), *map(inspect.getsource, adapters)]
    return str(scripts / pair.script), argv, len(arguments) + sum(map(code_lines, sources))


def quality(pair: Pair, side: str, run: Path) -> float:
    """The metric on the validation examples, from the report of the side."""
    if side == "hf_fer":
        return json.loads((run / "report/metrics.json").read_text(encoding="utf-8"))["validation"][pair.metric]
    return json.loads((run / "eval_results.json").read_text(encoding="utf-8"))[f"eval_{pair.metric}"]


@torch.inference_mode()
def recognised_alone(run: Path, table: str) -> float:
    """WER of a saved model on the validation clips one by one, so that no frame of padding is decoded."""
    model, tokenizer = AutoModelForCTC.from_pretrained(run).eval(), AutoTokenizer.from_pretrained(run)
    extractor, said, heard = AutoFeatureExtractor.from_pretrained(run), [], []
    rows = read_table(table)
    for row in rows[rows["split"] == "validation"].itertuples():
        samples, rate = soundfile.read(row.file_path, dtype="float32")
        samples = resample_poly(samples, extractor.sampling_rate, rate).astype("float32")
        inputs = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        said.append(row.transcript)
        heard += tokenizer.batch_decode(model(**inputs).logits.argmax(dim=-1))
    return jiwer.wer(said, heard)


def figures(told: dict[str, Any], start: float, end: float, batch: int) -> dict[str, float]:
    """Seconds and rates from the events of a run, each a name, the time of day, and CPU seconds of the process."""
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for name, when, used in told["events"]:
        wall.setdefault(name, []).append(when)
        cpu.setdefault(name, []).append(used)
    samples, steps = told["examples"] * len(wall["epoch_end"]), wall["step_end"]
    later = steps[-1] - steps[1] - between(wall["epoch_end"], wall["epoch_begin"][1:])
    return {
        "first_step_s": steps[0] - start,
        "train_begin_s": wall["train_begin"][0] - start,
        "samples_per_s": samples / between(wall["epoch_begin"], wall["epoch_end"]),
        "later_samples_per_s": (samples - 2 * batch) / (later or float("nan")),
        "end_s": end - start,
        "first_step_cpu_s": cpu["step_end"][0],
        "samples_per_cpu_s": samples / between(cpu["epoch_begin"], cpu["epoch_end"]),
        "end_cpu_s": told["cpu_s"],
        "examples": told["examples"],
        "peak_mib": told["peak_mib"],
    }


def between(starts: list[float], ends: list[float]) -> float:
    """Sum of the lengths of intervals."""
    return sum(end - start for start, end in zip(starts, ends, strict=False))


def measure(pair: Pair, side: str, args: argparse.Namespace, work: Path, output: Path) -> dict[str, float]:
    """Run one side in a process of its own."""
    output.mkdir(parents=True)
    program, argv, lines = command(pair, side, args.scripts, output)
    needs = [*pair.needs, "local_metrics"] if side == "script" else []
    spec = {"program": program, "argv": argv, "events": str(output / "events.json"), "needs": needs}
    (output / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    threads = str(args.threads)
    environment = {
        **os.environ,
        "HF_HOME": str(output / "cache"),
        "HF_HUB_CACHE": str(work / "hub"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
    }
    child = [sys.executable, examples_child.__file__, str(output / "spec.json")]
    with (output / "log.txt").open("w", encoding="utf-8") as log:
        start = time.time()
        code = subprocess.run(child, env=environment, stdout=log, stderr=log, cwd=output, check=False).returncode
        end = time.time()
    if code:
        tail = (output / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-30:]
        raise SystemExit("\n".join([*tail, f"{pair.script}, {side}: exit status {code}"]))
    told = json.loads((output / "events.json").read_text(encoding="utf-8"))
    found = figures(told, start, end, pair.schedule["per_device_train_batch_size"])
    found = {"lines": lines, **found, "quality": quality(pair, side, output / "run")}
    if pair.metric == "wer":
        found["alone"] = recognised_alone(output / "run", pair.recipe["dataset"])
    return found


def show(name: str, metric: str, sides: dict[str, dict[str, float]]) -> None:
    """The rows of a pair in the table."""
    for side, row in sides.items():
        places = 2 if side == "ratio" else 1
        cells = "".join(f"{row[column]:>8.{places}f}" for column in COLUMNS.values())
        scored = "" if side == "ratio" else f"{row['quality']:>10.4f} {metric}"
        scored += f" ({row['alone']:.4f} one by one)" if scored and "alone" in row else ""
        lines = f"{row['lines']:>7.{2 if side == 'ratio' else 0}f}"
        print(f"{name:<6}{side:<8}{lines}{cells}{scored}", flush=True)


def compare(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides of a pair in turns, their medians, and ours over theirs."""
    work = folder / name
    work.mkdir()
    pair = PAIRS[name](work, args.data, args.examples)
    if args.epochs:
        pair.schedule["num_train_epochs"] = args.epochs
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(args.rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            rounds[side].append(measure(pair, side, args, work, work / f"{number}_{side}"))
    sides = {
        side: {key: statistics.median(each[key] for each in found) for key in found[0]}
        for side, found in rounds.items()
    }
    ours, theirs = (sides[side] for side in SIDES)
    sides["ratio"] = {key: value / theirs[key] if theirs[key] else float("nan") for key, value in ours.items()}
    show(name, pair.metric, sides)
    return {"metric": pair.metric, "schedule": {**SCHEDULE, **pair.schedule}, **sides, "rounds": rounds}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, required=True, help="folder of the example scripts")
    parser.add_argument("--data", type=Path, default=os.environ.get("HF_FER_DATA"), help="HF_FER_DATA if unset")
    parser.add_argument("--only", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads, and cores that each process may use")
    parser.add_argument("--epochs", type=int, help="each pair has its own number if unset")
    parser.add_argument("--examples", type=int, help="training examples at most, and a quarter for validation")
    parser.add_argument("--keep", type=Path, help="keep data, models, runs and logs in this new folder")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    args = parser.parse_args()
    if args.data is None:
        parser.error("--data or HF_FER_DATA has to name the folder of the data")
    args.data, args.scripts = args.data.resolve(), args.scripts.resolve()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    with tempfile.TemporaryDirectory() as folder:
        if args.keep:
            args.keep.mkdir(parents=True)
        print(f"{'pair':<6}{'side':<8}{'lines':>7}" + "".join(f"{title:>8}" for title in COLUMNS))
        kept = args.keep.resolve() if args.keep else Path(folder)
        found = {name: compare(name, args, kept) for name in args.only}
    if args.json:
        about = {"threads": args.threads, "torch": torch.__version__, "pairs": found}
        args.json.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
