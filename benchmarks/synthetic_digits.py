"""Speaks the ten English digits with espeak-ng in many voices, as further training data where speakers are few.

python benchmarks/synthetic_digits.py OUTPUT_DIR [--voices 200]

Needs the program espeak-ng. Each voice is an English accent with one of espeak-ng's variants, a pitch and a speed;
it says every digit once. Writes FLAC at 8 kHz and OUTPUT_DIR/synthetic.csv, whose rows are all for training. The
same call writes the same set.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from scipy.signal import resample_poly

RATE = 8000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029")
VARIANTS = (
    *(f"m{number}" for number in range(1, 9)),
    *(f"f{number}" for number in range(1, 6)),
    *("adam", "antonio", "belinda", "david", "edward", "gustave", "iven", "linda", "max", "michael", "paul", "pablo"),
)


def speak(text: str, voice: str, speed: int, pitch: int) -> np.ndarray | None:
    """A word by espeak-ng without the silence around it, `float32 (samples,)`; `None` where the program fails."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", file.name, text]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
            return None
        samples, rate = soundfile.read(file.name, dtype="float32")
    samples = resample_poly(samples, RATE, rate)
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=1e-9))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else None


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--voices", type=int, default=200)
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    draw, rows = np.random.default_rng(0), []
    for number in range(args.voices):
        voice = f"{draw.choice(ACCENTS)}+{draw.choice(VARIANTS)}"
        speed, pitch = int(draw.integers(110, 200)), int(draw.integers(15, 85))
        for digit in DIGITS:
            samples = speak(digit, voice, speed, pitch)
            if samples is None:
                continue
            path = args.output_dir / f"{number}_{digit}.flac"
            quiet = draw.uniform(0.2, 0.9) * samples / np.abs(samples).max()
            noisy = quiet + draw.normal(0, 10 ** draw.uniform(-4, -2.3), len(quiet))
            soundfile.write(path, np.clip(noisy, -1, 1), RATE, subtype="PCM_16")
            rows.append({"file_path": path.name, "transcript": digit, "speaker_id": f"espeak {number}"})
    table = pd.DataFrame(rows).assign(split="train")
    table.to_csv(args.output_dir / "synthetic.csv", index=False)
    print(f"{args.output_dir / 'synthetic.csv'}: {len(table)} words of {args.voices} voices")


if __name__ == "__main__":
    main()
