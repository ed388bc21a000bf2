"""Time of an epoch of multimodal_fer, `run.py` with its caches against the loop that people write:

python benchmarks/training_throughput.py --grid FOLDER_OF_MPG [--clips N] [--epochs N] [--repeats N] [--json OUT]

Both see the same clips (GRID's, and 1280 x 720 H.264 that this script makes), in batches of the same size, with the
same frames per clip and log-mels of the same shape, and train the same model class from the same configuration with
AdamW at the same rate. Neither augments, evaluates or saves checkpoints. Each measurement has a process of its own and
as many threads as `--threads` says (torch's default if it does not). Order alternates over the repeats.

The plain loop is what a competent person writes in an afternoon, in fp32 and one process: a map-style data set that
reads each clip every time with OpenCV (frames that are not used are grabbed and never converted, the rest are resized
right away) and librosa (mono, resampled to 16 kHz), a `DataLoader` in the same process, forward, backward, clip, step.
librosa cannot open these containers without FFmpeg's program, so the loop is given the sound as WAV files at its own
rate, made beforehand and not counted.

`run.py` starts with no cache at all. Its first epoch is everything from the recipe to the end of that epoch: reading
the manifest, decoding and checking every file, building the model, filling the caches. The plain loop's is everything
from building the model to the end of that epoch. Importing Python packages is in neither.

Three cases:

- frozen: size `tiny`, but 224 px and a vision encoder of the size of ViT-Ti/16 (12 layers, width 192) that does not
  train; 16 frames; `cache: features`.
- trained: the model of the demo recipe as it is, all of it trained: 64 px, 4 frames; `cache: decoded`.
- trained, 16 frames: size `tiny` as it is, all of it trained: 64 px, 16 frames; `cache: decoded`. On a CPU its
  arithmetic takes longer than decoding GRID's small pictures, and no cache can do anything about that.

The CPU seconds of the process (all of its threads) are given too: they say what the wall clock does not on a machine
that does other work.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import pandas as pd

from hf_fer.reporting.report import markdown_table

BATCH, CLASSES = 8, 8

CASES: dict[str, dict[str, Any]] = {
    "frozen": {
        "config_overrides": {
            "vision_config": {
                "hidden_size": 192,
                "num_hidden_layers": 12,
                "num_attention_heads": 3,
                "intermediate_size": 768,
                "patch_size": 16,
            },
            "temporal_num_heads": 3,
        },
        "freeze": ["vision"],
        "cache": "features",
        "num_frames": 16,
        "image_size": 224,
    },
    "trained": {
        "config_overrides": {
            "vision_config": {"patch_size": 16, "num_hidden_layers": 2},
            "temporal_num_layers": 2,
        },
        "cache": "decoded",
        "num_frames": 4,
        "image_size": 64,
    },
    "trained, 16 frames": {"config_overrides": {}, "cache": "decoded", "num_frames": 16, "image_size": 64},
}


def recipe(case: str, manifest: Path, epochs: int, workers: int) -> dict[str, Any]:
    """What `run.py` is given; the plain loop takes the model from it."""
    return {
        "task": "multimodal_fer",
        "dataset": str(manifest),
        "protocol": "manifest",
        "model_size": "tiny",
        "freeze": [],
        "face_crop": "none",
        "augment": False,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-4,
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,
        "do_eval": False,
        "do_predict": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "logging_steps": 1000,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **CASES[case],
    }


@dataclass
class Stopwatch:
    """Wall and CPU seconds between its marks."""

    marks: list[tuple[float, float]] = field(default_factory=list)

    def mark(self) -> None:
        """Now."""
        self.marks.append((time.perf_counter(), time.process_time()))

    def seconds(self) -> list[tuple[float, float]]:
        """Wall and CPU seconds from each mark to the next."""
        return [(end[0] - start[0], end[1] - start[1]) for start, end in itertools.pairwise(self.marks)]


def hf_fer_epochs(fields: dict[str, Any], folder: Path, watch: Stopwatch) -> None:
    """Marks the end of each epoch of `run.py`'s own function; the first one starts with the recipe."""
    from transformers import TrainerCallback

    from hf_fer.experiment.one_run import run
    from hf_fer.task.find import parse_task

    class Clock(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            watch.mark()

    (folder / "recipe.json").write_text(json.dumps(fields), encoding="utf-8")
    watch.mark()
    task = parse_task([str(folder / "recipe.json")])
    callbacks = task.callbacks
    task.callbacks = lambda: [*callbacks(), Clock()]
    run(task)


def plain_epochs(fields: dict[str, Any], folder: Path, watch: Stopwatch) -> None:
    """Marks the end of each epoch of the loop that people write."""
    import cv2
    import librosa
    import numpy as np
    import torch

    from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification

    size, num_frames = fields["image_size"], fields["num_frames"]

    class Clips(torch.utils.data.Dataset):
        def __init__(self, table: pd.DataFrame):
            self.rows = table.to_dict("records")

        def __len__(self) -> int:
            return len(self.rows)

        def frames(self, path: str) -> torch.Tensor:
            video = cv2.VideoCapture(path)
            count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
            wanted = np.linspace(0, count - 1, num_frames).astype(int)
            pictures: dict[int, np.ndarray] = {}
            for index in range(wanted[-1] + 1):
                if not video.grab():
                    break
                if index in wanted:
                    picture = cv2.resize(video.retrieve()[1], (size, size), interpolation=cv2.INTER_AREA)
                    pictures[index] = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            video.release()
            last = max(pictures)
            stacked = np.stack([pictures[min(index, last)] for index in wanted])
            return (torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5

        def sound(self, path: str) -> torch.Tensor:
            samples, rate = librosa.load(path, sr=16000)
            mel = librosa.feature.melspectrogram(
                y=samples, sr=rate, n_fft=512, win_length=400, hop_length=160, n_mels=80
            )
            return torch.from_numpy((np.log(mel.T + 1e-6) + 11.5) / 3.85)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
            row = self.rows[index]
            return self.frames(row["video"]), self.sound(row["wav"]), row["class"]

    def collate(examples: list[tuple]) -> dict[str, torch.Tensor]:
        sounds = [sound for _, sound, _ in examples]
        features = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True)
        lengths = torch.tensor([len(sound) for sound in sounds])
        return {
            "pixel_values": torch.stack([frames for frames, _, _ in examples]),
            "input_features": features,
            "attention_mask": torch.arange(features.shape[1]) < lengths[:, None],
            "labels": torch.tensor([label for _, _, label in examples]),
        }

    watch.mark()
    torch.manual_seed(0)
    overrides = dict(fields["config_overrides"])
    vision = {"image_size": size, **overrides.pop("vision_config", {})}
    config = MultimodalFerConfig.from_preset("tiny", num_frames=num_frames, vision_config=vision, **overrides)
    model = MultimodalFerForEmotionClassification(config)
    model.freeze(fields["freeze"])
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=fields["learning_rate"])
    loader = torch.utils.data.DataLoader(
        Clips(pd.read_csv(fields["dataset"])), batch_size=BATCH, shuffle=True, collate_fn=collate
    )
    for _ in range(fields["num_train_epochs"]):
        for batch in loader:
            optimizer.zero_grad()
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        watch.mark()


LOOPS: dict[str, Callable[[dict[str, Any], Path, Stopwatch], None]] = {"plain": plain_epochs, "run.py": hf_fer_epochs}


def measure(loop: str, fields: dict[str, Any], folder: Path, threads: int | None, out: Any) -> None:
    """In a fresh process: import first, then one run."""
    multiprocessing.set_start_method("fork", force=True)  # as anywhere on Linux: a spawned process would spawn workers
    import torch

    import hf_fer  # noqa: F401

    if threads:
        import cv2

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
    watch = Stopwatch()
    LOOPS[loop](fields, folder, watch)
    out.put(watch.seconds())


def write_wav(clip: Path, wav: Path) -> None:
    """The sound of a clip as 16-bit WAV at its own rate, channels kept."""
    with av.open(str(clip)) as source, av.open(str(wav), "w") as target:
        track = source.streams.audio[0]
        sound = target.add_stream("pcm_s16le", rate=track.rate, layout=track.layout.name)
        for frame in source.decode(track):
            frame.pts = None
            target.mux(sound.encode(frame))
        target.mux(sound.encode(None))


def enlarge(clip: Path, target: Path) -> None:
    """A clip's pictures at 1280 x 720 as H.264, and its sound as AAC."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as made:
        pictures, track = source.streams.video[0], source.streams.audio[0]
        video = made.add_stream("libx264", rate=pictures.average_rate, options={"preset": "veryfast"})
        video.width, video.height, video.pix_fmt = 1280, 720, "yuv420p"
        sound = made.add_stream("aac", rate=track.rate, layout=track.layout.name)
        for index, frame in enumerate(source.decode(pictures)):
            frame = frame.reformat(1280, 720, "yuv420p", interpolation="BICUBIC")
            frame.pts, frame.time_base = index, 1 / pictures.average_rate
            made.mux(video.encode(frame))
        made.mux(video.encode(None))
        source.seek(0)
        for frame in source.decode(track):
            frame.pts = None
            made.mux(sound.encode(frame))
        made.mux(sound.encode(None))


def write_manifest(clips: list[Path], folder: Path) -> Path:
    """A manifest of clips with made-up classes, all of them for training; the plain loop reads two more columns."""
    for clip in clips:
        write_wav(clip, folder / f"{clip.stem}.wav")
    table = pd.DataFrame(
        {
            "video": map(str, clips),
            "audio": map(str, clips),
            "wav": [str(folder / f"{clip.stem}.wav") for clip in clips],
            "class": [index % CLASSES for index in range(len(clips))],
            "label": [f"class {index % CLASSES}" for index in range(len(clips))],
            "split": "train",
        }
    )
    table.to_csv(folder / "clips.csv", index=False)
    return folder / "clips.csv"


def run_fresh(loop: str, fields: dict[str, Any], threads: int | None) -> list[tuple[float, float]]:
    """One measurement in a process and with a Hugging Face cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = str(Path(folder, "home"))
        context = multiprocessing.get_context("spawn")
        out = context.Queue()
        output = str(Path(folder, "out"))
        process = context.Process(
            target=measure, args=(loop, {**fields, "output_dir": output}, Path(folder), threads, out)
        )
        process.start()
        while process.is_alive() and out.empty():
            process.join(0.1)
        if out.empty():
            raise SystemExit(f"{loop} ended with status {process.exitcode}.")
        seconds = out.get()
        process.join()
        return seconds


def averages(seconds: list[tuple[float, float]]) -> dict[str, Any]:
    """The first epoch, the mean of the others, and all of them, of one measurement."""
    wall, cpu = (sum(values) / len(values) for values in zip(*seconds[1:], strict=True))
    return {"first epoch": seconds[0][0], "later epochs": wall, "later epochs, CPU": cpu, "epochs": seconds}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Median, smallest and largest of the repeats in each case, and the ratios of the medians."""
    table = []
    for (clips, case), group in rows.groupby(["clips", "case"], sort=False):
        for column in ("first epoch", "later epochs", "later epochs, CPU"):
            plain, ours = (group.loc[group["loop"] == loop, column] for loop in LOOPS)
            cells = {
                loop: f"{part.median():.2f} ({part.min():.2f}-{part.max():.2f})"
                for loop, part in zip(LOOPS, (plain, ours), strict=True)
            }
            ratio = f"{plain.median() / ours.median():.2f}"
            table.append({"clips": clips, "vision": case, "seconds of": column, **cells, "plain / run.py": ratio})
    return pd.DataFrame(table)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("HF_FER_DATA")
    default = Path(data, "grid_s1", "video") if data else None
    parser.add_argument("--grid", type=Path, default=default, help="folder of GRID's .mpg files; else in HF_FER_DATA")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, help="of torch and OpenCV")
    parser.add_argument("--workers", type=int, default=0, help="data loader workers of run.py")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--sources", nargs="+", choices=["GRID", "720p"], default=["GRID", "720p"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if args.grid is None or not args.grid.is_dir():
        parser.error("give --grid, or set HF_FER_DATA")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clips = sorted(args.grid.glob("*.mpg"))[: args.clips]
        for source in args.sources:
            place = Path(folder, source)
            place.mkdir()
            if source == "720p":
                for clip in clips:
                    enlarge(clip, place / f"{clip.stem}.mp4")
            files = sorted(place.glob("*.mp4")) or clips
            manifest = write_manifest(files, place)
            for case in args.cases:
                fields = recipe(case, manifest, args.epochs, args.workers)
                for repeat in range(args.repeats):
                    for loop in list(LOOPS)[:: 1 if repeat % 2 == 0 else -1]:
                        seconds = run_fresh(loop, fields, args.threads)
                        print(source, case, loop, [f"{wall:.2f} ({cpu:.2f} CPU)" for wall, cpu in seconds], flush=True)
                        rows.append({"clips": source, "case": case, "loop": loop, **averages(seconds)})
    print(markdown_table(summary(pd.DataFrame(rows))))
    if args.json:
        settings = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
        args.json.write_text(json.dumps({"arguments": settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
