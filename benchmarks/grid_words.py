"""How well speech_to_text recognises words of GRID, and how near their times are to the corpus's alignments.

python benchmarks/grid_words.py [--data ../shared/data/grid_s1] [--epochs 120] [--json OUT]

Trains a small model from scratch on the sound of the clips whose split is `train`, without choosing a checkpoint,
and recognises all others once. The times of recognised words that are right are compared with the alignment's.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pandas as pd
from transformers import pipeline

from hf_fer.experiment.one_run import run
from hf_fer.task.find import build_task

ALIGNMENT_RATE = 25000
"""Units of GRID's alignments a second."""
SILENCE = ("sil", "sp")
RECIPE = {
    "task": "speech_to_text",
    "model_size": "weak",
    "config_overrides": {
        "encoder_config": {
            "num_hidden_layers": 2,
            "hidden_size": 96,
            "intermediate_size": 384,
            "subsampling_conv_channels": 32,
            "dropout": 0.0,
            "activation_dropout": 0.0,
            "attention_dropout": 0.0,
        }
    },
    "features": "nemotron",
    "augmentation": {"resample": 0.15, "time_masks": 1, "frequency_masks": 1, "frequency_mask_bins": 10},
    "per_device_train_batch_size": 6,
    "per_device_eval_batch_size": 6,
    "learning_rate": 0.003,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "max_grad_norm": 1.0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "report_to": "none",
    "disable_tqdm": True,
    "logging_steps": 70,
    "use_cpu": True,
    "seed": 0,
}


def spoken_words(path: Path) -> list[dict[str, Any]]:
    """Words of an alignment, as `word`, and `start` and `end` in seconds."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        start, end, word = line.split()
        if word not in SILENCE:
            words.append({"word": word, "start": int(start) / ALIGNMENT_RATE, "end": int(end) / ALIGNMENT_RATE})
    return words


def differences(said: list[dict[str, Any]], heard: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Recognised minus true start and end, in seconds, of each word that is right."""
    texts = [" ".join(word["word"] for word in words) for words in (said, heard)]
    found = []
    for chunk in jiwer.process_words(*texts).alignments[0]:
        if chunk.type == "equal":
            pairs = zip(
                said[chunk.ref_start_idx : chunk.ref_end_idx],
                heard[chunk.hyp_start_idx : chunk.hyp_end_idx],
                strict=True,
            )
            found += [(ours["start"] - true["start"], ours["end"] - true["end"]) for true, ours in pairs]
    return found


def train(rows: pd.DataFrame, folder: Path, epochs: float) -> Path:
    """Train on the rows; returns the model's folder."""
    table = rows.assign(file_path=rows["video"])[["file_path", "transcript"]].assign(split="train")
    table.to_csv(folder / "clips.csv", index=False)
    recipe = {**RECIPE, "dataset": str(folder / "clips.csv"), "num_train_epochs": epochs}
    task = build_task({**recipe, "output_dir": str(folder / "model")}, "recipe", [])
    run(task)
    return folder / "model"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/grid_s1"))
    parser.add_argument("--epochs", type=float, default=120)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = pd.read_csv(args.data / "manifest.csv")
    rows = rows.assign(video=[str((args.data / name).resolve()) for name in rows["video"]])
    trains = rows["split"] == "train"
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        model = train(rows[trains], Path(folder), args.epochs)
        seconds = time.perf_counter() - begun
        recognise = pipeline("timed-speech-recognition", model=str(model))
        scored = [
            (spoken_words(args.data / row.align), recognise(row.video)["words"]) for row in rows[~trains].itertuples()
        ]
    texts = [[" ".join(word["word"] for word in words) for words in side] for side in zip(*scored, strict=True)]
    moved = np.array([pair for said, heard in scored for pair in differences(said, heard)]).reshape(-1, 2)
    result = {
        "training_clips": int(trains.sum()),
        "scored_clips": len(scored),
        "training_seconds": round(seconds),
        "wer": jiwer.wer(*texts),
        "cer": jiwer.cer(*texts),
        "right_words": len(moved),
    }
    if len(moved):
        for index, name in enumerate(("start", "end")):
            result[f"{name}_median_difference_ms"] = round(1000 * float(np.median(moved[:, index])), 1)
            result[f"{name}_median_absolute_difference_ms"] = round(
                1000 * float(np.median(np.abs(moved[:, index]))), 1
            )
        result["median_absolute_difference_ms"] = round(1000 * float(np.median(np.abs(moved))), 1)
    for name, value in result.items():
        print(f"{name}: {value}")
    for said, heard in zip(*texts, strict=True):
        print(f"  {said} | {heard}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
