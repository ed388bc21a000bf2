"""Pushes the demos' models to a Hub on loopback, and loads them in an environment that has no hf_fer.

python tests/drills/second_environment_drill.py --python OTHER/bin/python [--runs outputs/demo] [--json OUT]

`--python` is the interpreter of the other environment, with torch, transformers and what the systems decode with
(README's `pip install` line without hf_fer). `hf-fer push` sends each model; the other environment downloads it with
`trust_remote_code=True`, calls the model on drawn inputs and `pipeline` by the name of its task on an example. Both
are compared with the same calls here, on the local folder: the largest difference of logits, and the answers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

CLASSES = {
    "multimodal_fer": ("AutoModelForVideoClassification", "audio-visual-emotion-recognition"),
    "csr": ("AutoModelForImageClassification", "concept-image-classification"),
    "language_id": ("AutoModelForSequenceClassification", "text-classification"),
    "speech_to_text": ("AutoModelForCTC", "automatic-speech-recognition"),
}
"""System -> auto class of its model, and the pipeline that loads it without hf_fer."""

RUNS = {"csr": "csr/3_task"}
"""Folder of a system's run, where it is not the system's name."""

SCRIPT = """
import json, sys
import numpy as np, torch, transformers
job = json.loads(sys.argv[1])
trusted = {"trust_remote_code": True} if job["remote"] else {}
if job["remote"]:
    try:
        import hf_fer
        sys.exit("hf_fer is installed in the other environment")
    except ImportError:
        pass
else:
    import hf_fer
model = getattr(transformers, job["class"]).from_pretrained(job["model"], **trusted).eval()
inputs = {name: torch.from_numpy(value) for name, value in np.load(job["inputs"]).items()}
with torch.inference_mode():
    np.save(job["logits"], model(**inputs).logits.numpy())
answer = transformers.pipeline(job["task"], model=job["model"], **trusted)(job["example"])
print(json.dumps(answer, default=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)))
"""


def inputs_and_example(system: str, folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """Drawn inputs of the model, and a file or text for the pipeline."""
    draw = np.random.default_rng(0)
    if system == "language_id":
        return {"input_ids": draw.integers(5, 60, (3, 20))}, "Hôm nay trời đẹp quá"
    if system == "csr":
        from hf_fer.models.csr.train.demo import demo_data

        pixels = draw.normal(size=(2, 3, 64, 64)).astype(np.float32)
        return {"pixel_values": pixels}, str(next(iter(sorted(demo_data()[0].parent.rglob("*.png")))))
    if system == "speech_to_text":
        from hf_fer.models.speech_to_text.train.demo import make_demo

        sound = draw.normal(size=(2, 200, 80)).astype(np.float32)
        example = next(iter(sorted(make_demo(folder / "speech").parent.rglob("*.wav"))))
        return {"input_features": sound, "attention_mask": np.ones((2, 200), np.int64)}, str(example)
    from hf_fer.data.loading import cache_dir
    from hf_fer.models.multimodal_fer.train.demo import make_demo_ravdess

    clips = sorted(make_demo_ravdess(cache_dir("demo", "multimodal_fer")).rglob("*.mp4"))
    return {
        "input_features": draw.normal(size=(2, 120, 80)).astype(np.float32),
        "attention_mask": np.ones((2, 120), np.int64),
        "pixel_values": draw.normal(size=(2, 4, 3, 64, 64)).astype(np.float32),
    }, str(clips[0])


def call(python: str, environment: dict[str, str], job: dict[str, Any], cwd: Path) -> Any:
    """The pipeline's answer, as one environment gives it; the model's logits go to a file."""
    words = [python, "-c", SCRIPT, json.dumps(job)]
    ended = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{job['model']}: {ended.stderr[-3000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def same(here: Any, there: Any) -> bool:
    """Whether two answers are the same, numbers to 1e-5."""
    if isinstance(here, dict):
        return here.keys() == there.keys() and all(same(here[name], there[name]) for name in here)
    if isinstance(here, list):
        return len(here) == len(there) and all(map(same, here, there))
    return abs(here - there) < 1e-5 if isinstance(here, float) else here == there


def main() -> None:
    """Push, load and compare every system, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True)
    parser.add_argument("--runs", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from hub_server import HubServer

    found = {}
    with tempfile.TemporaryDirectory() as name, HubServer(Path(name, "hub")) as hub:
        folder = Path(name)
        outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        outside |= hub.environment(folder / "cache")
        for system, (auto_class, task) in CLASSES.items():
            model, repo = (args.runs / RUNS.get(system, system)).resolve(), f"{hub.user}/{system}"
            words = [sys.executable, "-m", "hf_fer.cli", "push", str(model), repo]
            subprocess.run(words, env={**outside, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True)
            inputs, example = inputs_and_example(system, folder)
            np.savez(folder / "inputs.npz", **inputs)
            job = {"class": auto_class, "task": task, "inputs": str(folder / "inputs.npz"), "example": example}
            here = {**job, "model": str(model), "remote": False, "logits": str(folder / "here.npy")}
            there = {**job, "model": repo, "remote": True, "logits": str(folder / "there.npy")}
            answers = (
                call(sys.executable, {**os.environ, "PYTHONPATH": str(ROOT)}, here, folder),
                call(args.python, outside, there, folder),
            )
            logits = [np.load(folder / f"{side}.npy") for side in ("here", "there")]
            found[system] = {
                "largest difference of logits": float(np.abs(logits[0] - logits[1]).max()),
                "same answer of the pipeline": same(*answers),
            }
            print(system, found[system], flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
