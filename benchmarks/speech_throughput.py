"""How fast speech_to_text trains and recognises, and what memory a long recording takes.

python benchmarks/speech_throughput.py [--recipe training_args/speech_to_text_weak.json] [--clips 96] [--rounds 3]
    [--presets weak medium strong] [--minutes 10 60] [--json OUT]

Training: recordings of 1 to 15 s, most of them short, through the recipe's own Trainer, with batches by length, in
random order padded to the longest of the batch, and in random order padded to the longest of all. Rounds alternate,
and the first batch of each is not counted. Inference: a minute of sound as a file, in chunks, greedy, by each preset
with random weights; the real-time factor counts from file to words. Memory: the largest resident set of a process of
its own that recognises a recording of so many minutes. The sound is the demo's beeps.
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import wavfile
from torch.nn import functional
from transformers import Trainer, TrainerCallback, set_seed

from hf_fer.data.augment import EpochClock
from hf_fer.experiment.fit import train_watched
from hf_fer.experiment.one_run import load_data, make_trainer
from hf_fer.models.speech_to_text.pipeline_speech_to_text import TimedSpeechRecognitionPipeline
from hf_fer.models.speech_to_text.train.demo import RATE, WORDS, spoken
from hf_fer.models.speech_to_text.train.model import PRESETS, new_extractor, new_model, preset_config
from hf_fer.models.speech_to_text.train.vocabulary import build_tokenizer
from hf_fer.recipe.arguments import read_recipe
from hf_fer.task.find import parse_task

LONGEST = 15.0
QUIET = {
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "early_stopping_patience": None,
    "report_to": "none",
    "disable_tqdm": True,
    "num_train_epochs": 1,
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": False,
}


def sentence_of(seconds: float, draw: np.random.Generator) -> tuple[np.ndarray, str]:
    """Beeps of about so many seconds, and what they say."""
    samples, words = np.zeros(0, np.float32), []
    while len(samples) < seconds * RATE:
        words.append(str(draw.choice(WORDS)))
        samples = np.concatenate([samples, spoken(words[-1], 1.0, 1.0, draw)])
    return samples, " ".join(words)


def write_clips(folder: Path, count: int) -> tuple[Path, float]:
    """A manifest of recordings for training, and their seconds all together."""
    draw, rows, total = np.random.default_rng(0), [], 0.0
    for index in range(count + 2):
        seconds = LONGEST if index == 0 else float(np.clip(draw.lognormal(np.log(3.5), 0.6), 1, LONGEST))
        samples, text = sentence_of(seconds, draw)
        wavfile.write(folder / f"{index}.wav", RATE, (samples * 32767).astype(np.int16))
        rows.append([f"{index}.wav", text, "train" if index < count else "val"])
        total += len(samples) / RATE if index < count else 0.0
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file_path", "transcript", "split"], *rows])
    return folder / "clips.csv", total


class Clock(TrainerCallback):
    """Seconds from the end of the first step to that of the last."""

    def __init__(self):
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> float:
        """Of all steps but the first."""
        return self.ends[-1] - self.ends[0]


def padded_to(collate: Callable, frames: int) -> Callable:
    """A collator whose batches all have so many frames."""

    def padded(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(examples)
        missing = max(frames - batch["input_features"].shape[1], 0)
        batch["input_features"] = functional.pad(batch["input_features"], (0, 0, 0, missing))
        batch["attention_mask"] = functional.pad(batch["attention_mask"], (0, missing))
        return batch

    return padded


def training(recipe: str, clips: int, rounds: int, fields: list[str]) -> dict[str, float]:
    """Samples per second of each way to make batches, the median over rounds."""
    found: dict[str, list[float]] = {"by length": [], "random order": [], "fixed padding": []}
    with tempfile.TemporaryDirectory() as folder:
        table, seconds = write_clips(Path(folder), clips)
        print(f"{clips} clips, {seconds:.0f} s of sound, the longest {LONGEST:g} s")
        path = Path(folder, "recipe.json")
        path.write_text(
            json.dumps({**read_recipe(recipe), **QUIET, "dataset": str(table), "output_dir": f"{folder}/out"})
        )
        task = parse_task([str(path), *fields])
        data, origin = load_data(task)
        processor = task.build_processor(data)
        splits, size = (
            task.with_transforms(data, processor, EpochClock()),
            task.training_args.per_device_train_batch_size,
        )
        for _ in range(rounds):
            for name, rates in found.items():
                order = "group_by_length" if name == "by length" else "random"
                task.training_args.train_sampling_strategy = order
                set_seed(task.training_args.seed)
                trainer: Trainer = make_trainer(
                    task, data, splits, task.build_model(data, processor), processor, origin, EpochClock()
                )
                clock = Clock()
                trainer.add_callback(clock)
                if name == "fixed padding":
                    trainer.data_collator = padded_to(trainer.data_collator, round(LONGEST * 110))
                train_watched(trainer, False)
                rates.append((len(clock.ends) - 1) * size / clock.seconds())
    return {name: statistics.median(rates) for name, rates in found.items()}


def recogniser(preset: str) -> TimedSpeechRecognitionPipeline:
    """A pipeline with random weights."""
    tokenizer = build_tokenizer([" ".join(WORDS)], "nfc", 0)
    set_seed(0)
    model = new_model(preset_config(preset, len(tokenizer), tokenizer.pad_token_id, RATE // 100)).eval()
    extractor = new_extractor(RATE, "parakeet")
    return TimedSpeechRecognitionPipeline(model=model, tokenizer=tokenizer, feature_extractor=extractor)


def write_minutes(path: Path, minutes: float) -> None:
    """A recording of that length, a minute of beeps again and again."""
    part = (sentence_of(60, np.random.default_rng(0))[0][: 60 * RATE] * 32767).astype(np.int16)
    wavfile.write(path, RATE, np.tile(part, int(np.ceil(minutes)))[: round(60 * minutes * RATE)])


def inference(presets: list[str], rounds: int) -> dict[str, float]:
    """Real-time factor of each preset, the median over rounds."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "minute.wav")
        write_minutes(path, 1)
        for preset in presets:
            recognise, times = recogniser(preset), []
            for _ in range(rounds + 1):
                start = time.perf_counter()
                recognise(str(path))
                times.append(time.perf_counter() - start)
            found[preset] = statistics.median(times[1:]) / 60
    return found


def recognise_one(path: str) -> dict[str, float]:
    """Peak resident MiB of this process and seconds, for one recording by `weak`."""
    recognise = recogniser("weak")
    loaded, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter()
    recognise(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"loaded_mib": loaded, "peak_mib": peak, "seconds": time.perf_counter() - start}


def memory(minutes: list[float]) -> dict[str, dict[str, float]]:
    """`recognise_one` for recordings of several lengths, each in a process of its own."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for length in minutes:
            path = Path(folder, "long.wav")
            write_minutes(path, length)
            command = [sys.executable, __file__, "--one", str(path)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[f"{length:g}"] = json.loads(out.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="training_args/speech_to_text_weak.json")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--presets", nargs="*", default=["weak", "medium", "strong"], choices=list(PRESETS))
    parser.add_argument("--minutes", nargs="*", type=float, default=[10, 60], help="lengths whose memory is measured")
    parser.add_argument("--json", type=Path, help="also write every figure here")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args, fields = parser.parse_known_args()
    if args.one:
        print(json.dumps(recognise_one(args.one)))
        return
    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    found["training"] = training(args.recipe, args.clips, args.rounds, fields) if args.clips else {}
    for name, rate in found["training"].items():
        gain = rate / found["training"]["fixed padding"]
        print(f"training, {name}: {rate:.2f} samples/s, {gain:.2f} of fixed padding", flush=True)
    found["inference"] = inference(args.presets, args.rounds)
    for name, factor in found["inference"].items():
        print(f"inference, {name}: real-time factor {factor:.4f}", flush=True)
    found["memory"] = memory(args.minutes)
    for name, figures in found["memory"].items():
        print(
            f"memory, {name} minutes: peak {figures['peak_mib']:.0f} MiB ({figures['loaded_mib']:.0f} with the model "
            f"loaded), {figures['seconds']:.0f} s",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
