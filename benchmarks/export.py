"""Exports beside their models: difference of logits, metrics, size and latency on the CPU.

python benchmarks/export.py [--runs outputs/demo] [--systems csr ...] [--dtypes fp32 int8] [--threads 2] [--json OUT]

For finished runs of the demos, on examples of the demo's own data with their true answers, at most `--examples` of
them, evenly spread: of language_id all texts, of speech_to_text the test split, of csr the images of the last fifth
of the patients, of multimodal_fer the actors 21-24, whom training has not seen. Each export goes to a folder that
is removed; no export is refused, so that a figure stands for those that would be, too.
"""

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hf_fer.data.loading import cache_dir
from hf_fer.inference.export.job import Settings, export_model
from hf_fer.models.csr.train.demo import demo_data
from hf_fer.models.language_id.train.demo_text import demo_texts
from hf_fer.models.multimodal_fer.train.demo import make_demo_ravdess
from hf_fer.models.speech_to_text.train.demo import make_demo

RUNS = {
    "language_id": "language_id",
    "speech_to_text": "speech_to_text",
    "csr": "csr/3_task",
    "multimodal_fer": "multimodal_fer",
}
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
LAST_ACTORS = range(21, 25)


def examples(system: str, folder: Path) -> pd.DataFrame:
    """The demo's data as a table that `hf-fer predict` takes."""
    if system == "language_id":
        return pd.DataFrame({name: demo_texts()[name] for name in ("text", "label")})
    if system == "speech_to_text":
        table = make_demo(folder)
        rows = pd.read_csv(table)
        rows = rows[rows["split"] == "test"]
        rows["audio"] = [str(table.parent / name) for name in rows["file_path"]]
        return rows[["audio", "transcript"]]
    if system == "csr":
        table, _ = demo_data()
        rows = pd.read_csv(table)
        rows = rows.tail(len(rows) // 5).rename(columns={"class": "label"})
        rows["image"] = [str(table.parent / name) for name in rows["image"]]
        return rows[["image", "label"]]
    clips = make_demo_ravdess(cache_dir("demo", "multimodal_fer")).rglob("*.mp4")
    clips = [clip for clip in sorted(clips) if int(clip.stem.split("-")[6]) in LAST_ACTORS]
    labels = [EMOTIONS[int(clip.stem.split("-")[2]) - 1] for clip in clips]
    return pd.DataFrame({"video": map(str, clips), "audio": map(str, clips), "label": labels})


def measure(system: str, model: Path, folder: Path, dtypes: list[str], count: int) -> list[dict]:
    """One report for each type of weights."""
    rows = examples(system, folder)
    table = folder / f"{system}.csv"
    rows.iloc[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)].to_csv(table, index=False)
    found = []
    for dtype in dtypes:
        output = str(folder / f"{system}_{dtype}")
        report = export_model(Settings(str(model), output, "onnx", dtype, examples=str(table), allow_loss=True))
        found.append({"system": system, "difference": report.difference, **asdict(report)})
        print(line(found[-1]), flush=True)
    return found


def line(found: dict) -> str:
    """A row of a table in Markdown."""
    metrics = ", ".join(
        f"{name} {one['before']:.3f} -> {one['after']:.3f}"
        for name, one in found["metrics"].items()
        if name in ("uar", "wer")
    )
    same, count = found["same_answers"]
    size, time = found["bytes"], found["latency"]
    largest = found["differences"]["largest_logit"]
    return (
        f"| {found['system']} | {found['dtype']} | {found['difference']:.2g} of {largest:.1f} | {metrics} "
        f"| {same} of {count} | {size['before'] / 2**20:.2f} -> {size['after'] / 2**20:.2f} "
        f"| {time['before_ms']:.1f} -> {time['after_ms']:.1f} |"
    )


def main() -> None:
    """Measure, print a table, and write all reports where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--systems", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("| system | weights | difference of logits | metric | same answers | MiB | ms a call, batch of 1 |")
    print("| -- | -- | -- | -- | -- | -- | -- |")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for system in given.systems:
            found += measure(system, given.runs / RUNS[system], Path(folder), given.dtypes, given.examples)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
