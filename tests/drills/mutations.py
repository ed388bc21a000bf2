"""Replaces one line of the code at a time by a wrong one, and runs the tests that should fail.

python tests/drills/mutations.py [--only NAME ...] [--json OUT]

The drill works in a copy of the tracked files. All tests must pass on the unchanged copy, and at least one must fail
for each wrong line. The exit status is 1 if a wrong line goes unnoticed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Mutation(NamedTuple):
    """Text `right` that occurs once in `file`, text `wrong` that replaces it, and the tests to run."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str


FER, CSR, SPEECH = "hf_fer/models/multimodal_fer/", "hf_fer/models/csr/", "hf_fer/models/speech_to_text/"
MUTATIONS = [
    Mutation(
        "confidence multiplied by the temperature",
        "hf_fer/metrics/scored.py",
        "np.exp(log_softmax(self.log_probs / temperature",
        "np.exp(log_softmax(self.log_probs * temperature",
        "tests/metrics",
    ),
    Mutation(
        "temperature fitted the wrong way round",
        "hf_fer/metrics/calibration.py",
        "-log_softmax(log_probs / temperature, axis=1)",
        "-log_softmax(log_probs * temperature, axis=1)",
        "tests/metrics",
    ),
    Mutation(
        "UAR averaged over examples",
        "hf_fer/metrics/classification.py",
        '"uar": float(recall[seen].mean()),',
        '"uar": float(np.average(recall, weights=support)),',
        "tests/metrics",
    ),
    Mutation(
        "random_split ignores its seed",
        "hf_fer/data/loading.py",
        "random_state=seed, stratify=part[label]",
        "random_state=0, stratify=part[label]",
        "tests/data/test_loading.py tests/data/test_manifest.py",
    ),
    Mutation(
        "a group on two sides passes",
        "hf_fer/data/loading.py",
        "pairs = pairs[pairs[group].duplicated(keep=False)]",
        "pairs = pairs[:0]",
        "tests/data/test_loading.py tests/data/test_manifest.py",
    ),
    Mutation(
        "one example too many is left out without a stop",
        "hf_fer/data/skipped.py",
        "if len(skipped) <= max_fraction * total:",
        "if len(skipped) <= max_fraction * total + 1:",
        "tests/data/test_skipped.py",
    ),
    Mutation(
        "a manifest's labels in reverse order",
        FER + "train/reading.py",
        'labels = sorted(set(found.rows["label"]))',
        'labels = sorted(set(found.rows["label"]), reverse=True)',
        "tests/test_settings_reach.py",
    ),
    Mutation(
        "the sound's settings are not in the cache's key",
        FER + "train/preprocessing.py",
        '"max_seconds": processor.max_seconds, **settings}',
        '"max_seconds": processor.max_seconds}',
        "tests/test_settings_reach.py",
    ),
    Mutation(
        "attention looks at what is masked",
        FER + "layers_multimodal_fer.py",
        "scores = scores.masked_fill(~mask,",
        "scores = scores.masked_fill(mask,",
        "tests/models/multimodal_fer/test_multimodal_fer_modeling.py",
    ),
    Mutation(
        "padding counts as sound",
        FER + "modeling_multimodal_fer.py",
        "self.audio_pooling(states, attention_mask.sum(dim=-1))",
        "self.audio_pooling(states, torch.ones_like(attention_mask).sum(dim=-1))",
        "tests/models/test_models_common.py -k padding",
    ),
    Mutation(
        "pos_weight does not reach the loss of concepts",
        CSR + "modeling_csr.py",
        "return concept_loss(logits, concept_labels.to(logits.dtype), weight)",
        "return concept_loss(logits, concept_labels.to(logits.dtype))",
        "tests/test_settings_reach.py",
    ),
    Mutation(
        "the sign of the loss of prototypes",
        CSR + "losses_csr.py",
        "return -(log_probs.diagonal(",
        "return (log_probs.diagonal(",
        "tests/models/csr/test_csr_losses.py tests/models/csr/test_csr_modeling.py",
    ),
    Mutation(
        "one more step that is not finite before the run stops",
        "hf_fer/runtime/nonfinite.py",
        "if self.in_a_row >= self.patience:",
        "if self.in_a_row > self.patience:",
        "tests/runtime/test_stability.py",
    ),
    Mutation(
        "a skipped step is not counted",
        "hf_fer/runtime/nonfinite.py",
        "        self.skipped += 1\n",
        "",
        "tests/runtime/test_stability.py",
    ),
    Mutation(
        "the beam keeps the best alignment where it should add them up",
        SPEECH + "decoding_speech_to_text.py",
        '"log_add": True,',
        '"log_add": False,',
        "tests/models/speech_to_text/test_speech_to_text_decoding.py",
    ),
    Mutation(
        "equal neighbours are not merged",
        SPEECH + "decoding_speech_to_text.py",
        "return tuple(token for token, _ in groupby(path) if token != blank)",
        "return tuple(token for token in path if token != blank)",
        "tests/models/speech_to_text/test_speech_to_text_decoding.py",
    ),
    Mutation(
        "a blank weighs nothing",
        SPEECH + "decoding_speech_to_text.py",
        "            blank=blank,\n            reduction=",
        "            blank=(blank + 1) % log_probs.shape[1],\n            reduction=",
        "tests/models/speech_to_text/test_speech_to_text_decoding.py",
    ),
]


def copy_of_the_code(folder: Path) -> None:
    """Copy the files that git tracks, with their uncommitted changes, to a folder."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def write(file: Path, text: str) -> None:
    """Write a file, and remove bytecode, which Python would take for that of a file of the same size and second."""
    file.write_text(text, encoding="utf-8")
    shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)


def run_tests(folder: Path, words: list[str]) -> tuple[int, str]:
    """Run pytest; returns its exit status, and its last failure or else its last line."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--no-header", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (failed or done.stdout.splitlines() or [done.stderr[-300:]])[-1]


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="names, or parts of them")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    chosen = [one for one in MUTATIONS if not args.only or any(part in one.name for part in args.only)]
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_code(folder)
        for words in dict.fromkeys(one.tests for one in chosen):
            status, last = run_tests(folder, words.split())
            if status:
                print(f"{words}: fails on the unchanged code: {last}")
                return 2
        for one in chosen:
            file = folder / one.file
            text = file.read_text(encoding="utf-8")
            if text.count(one.right) != 1:
                print(f"{one.file}: contains this text {text.count(one.right)} times, not once: {one.right}")
                return 2
            write(file, text.replace(one.right, one.wrong))
            status, last = run_tests(folder, one.tests.split())
            write(file, text)
            found[one.name] = last if status == 1 else "NOT NOTICED"
            print(f"{one.name}: {found[one.name]}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return int("NOT NOTICED" in found.values())


if __name__ == "__main__":
    sys.exit(main())
