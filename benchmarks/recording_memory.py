"""Peak memory of the audio-visual pipeline on recordings of several lengths, whole and by windows.

python benchmarks/recording_memory.py [--minutes 1 5 20] [--size light --modalities audio] [--window 10] [--timeline]

Recordings are made here: a tone and, for video, grey frames of 160 x 120 pixels at 25 a second. The model has random
weights. Each figure is the largest resident set of a process of its own, so that Python, torch and the model, whose
share the first line gives, are in it.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

RATE = 16000
FPS = 25


def write_recording(path: Path, seconds: int, video: bool) -> None:
    """A recording of that length, written second by second."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=RATE, layout="mono")
        if video:
            pictures = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
            pictures.width, pictures.height, pictures.pix_fmt = 160, 120, "yuv420p"
        for second in range(seconds):
            wave = 0.3 * np.sin(2 * np.pi * (200 + second % 100) * np.arange(RATE) / RATE)
            frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, second * RATE
            container.mux(sound.encode(frame))
            if video:
                grey = np.full((120, 160, 3), second % 256, np.uint8)
                for _ in range(FPS):
                    container.mux(pictures.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(sound.encode(None))
        if video:
            container.mux(pictures.encode(None))


def save_model(folder: Path, size: str, modalities: list[str]) -> None:
    """A model with random weights and its processor."""
    from transformers import SiglipImageProcessor

    from hf_fer.models.multimodal_fer import (
        MultimodalFerConfig,
        MultimodalFerFeatureExtractor,
        MultimodalFerForEmotionClassification,
        MultimodalFerProcessor,
    )

    config = MultimodalFerConfig.from_preset(size, modalities=modalities)
    MultimodalFerForEmotionClassification(config).save_pretrained(folder)
    side = config.vision_config.image_size if "video" in modalities else 224
    images = SiglipImageProcessor(size={"height": side, "width": side})
    extractor = MultimodalFerFeatureExtractor(feature_size=config.audio_config.num_mel_bins)
    MultimodalFerProcessor(extractor, images, num_frames=config.num_frames).save_pretrained(folder)


def measure(folder: str, recording: str, window: float, timeline: bool) -> dict[str, float]:
    """Peak resident MiB of this process and seconds, for one recording; whole where `window` is 0."""
    from transformers import pipeline

    import hf_fer.models.multimodal_fer  # noqa: F401 registers the pipeline

    classify = pipeline("audio-visual-emotion-recognition", model=folder)
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    if window:
        classify(recording, window_seconds=window, timeline=timeline)
    else:
        classify.processor.max_seconds = float("inf")
        classify(recording)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"loaded": loaded, "peak": peak, "seconds": time.perf_counter() - start}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 5, 20])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--modalities", nargs="+", default=["audio", "video"])
    parser.add_argument("--window", type=float, default=10)
    parser.add_argument("--whole_up_to", type=float, default=5, help="minutes up to which the whole is measured, too")
    parser.add_argument(
        "--timeline", action="store_true", help="windows that overlap, smoothed and merged to segments"
    )
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "RECORDING", "WINDOW"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one[:2], float(args.one[2]), args.timeline)))
        return
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder, "model"), args.size, args.modalities)
        print("| minutes | read | loaded MiB | peak MiB | seconds |\n| --- | --- | --- | --- | --- |")
        for minutes in args.minutes:
            recording = Path(folder, f"{minutes:g}.mp4")
            write_recording(recording, round(60 * minutes), "video" in args.modalities)
            for window in (args.window, *([0] if minutes <= args.whole_up_to else [])):
                one = [sys.executable, __file__, "--one", str(Path(folder, "model")), str(recording), str(window)]
                one += ["--timeline"] if args.timeline else []
                out = subprocess.run(one, check=True, capture_output=True, text=True).stdout
                found = json.loads(out.splitlines()[-1])
                read = f"windows of {window:g} s" if window else "whole"
                figures = (f"{found[name]:.0f}" for name in ("loaded", "peak", "seconds"))
                print(f"| {minutes:g} | {read} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
