"""Runs one program of examples.py in this process, with a clock in its Trainer and what it lacks without the Hub.

python benchmarks/examples_child.py SPEC.json

The file has `program`, `argv`, `events` (where the times go) and `needs`, names of functions below.
"""

import json
import resource
import runpy
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS

EVENTS: list[tuple[str, float, float]] = []
FACTS: dict[str, float] = {}


def note(event: str) -> None:
    """Notes the time of day and the CPU seconds of this process so far."""
    EVENTS.append((event, time.time(), time.process_time()))


class Clock(TrainerCallback):
    """Notes the time of every step and epoch."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        FACTS["examples"] = len(kwargs["train_dataloader"].dataset)
        note("train_begin")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        note("epoch_begin")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        note("step_end")

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        note("epoch_end")


def local_metrics() -> None:
    """Lets `evaluate.load`, which downloads a script, return the same metrics of scikit-learn and jiwer."""
    import evaluate

    def accuracy(predictions: Any, references: Any) -> dict[str, float]:
        from sklearn.metrics import accuracy_score

        return {"accuracy": float(accuracy_score(references, predictions))}

    def wer(predictions: list[str], references: list[str]) -> float:
        from jiwer import wer

        return wer(references, predictions)

    computes = {"accuracy": accuracy, "wer": wer}
    evaluate.load = lambda name, **settings: SimpleNamespace(compute=computes[name])


def no_augmentation() -> None:
    """Lets the transforms that run_image_classification.py hard-codes for training resize only."""
    from torchvision import transforms

    transforms.RandomResizedCrop = transforms.Resize
    transforms.RandomHorizontalFlip = partial(transforms.RandomHorizontalFlip, p=0.0)


def sound_model() -> None:
    """Registers the model for sound."""
    import hf_fer.models.multimodal_fer  # noqa: F401


def picture_model() -> None:
    """Registers the model for pictures: the script knows no frames, and looks for another Auto class."""
    from transformers import AutoModelForImageClassification

    from hf_fer.models.multimodal_fer import MultimodalFerConfig, MultimodalFerForEmotionClassification

    class PictureClassifier(MultimodalFerForEmotionClassification):
        """The model on one frame, as `pixel_values (B, 3, height, width)`."""

        def forward(self, pixel_values: Any = None, labels: Any = None, **options: Any) -> Any:
            return super().forward(pixel_values=pixel_values[:, None], labels=labels, **options)

    AutoModelForImageClassification.register(MultimodalFerConfig, PictureClassifier)


NEEDS = {need.__name__: need for need in (local_metrics, no_augmentation, sound_model, picture_model)}


def main() -> None:
    """Command line."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    DEFAULT_CALLBACKS.append(Clock)
    for need in spec["needs"]:
        NEEDS[need]()
    sys.argv = [spec["program"], *spec["argv"]]
    try:
        runpy.run_path(spec["program"], run_name="__main__")
    finally:
        FACTS["cpu_s"] = time.process_time()
        FACTS["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        Path(spec["events"]).write_text(json.dumps({"events": EVENTS, **FACTS}), encoding="utf-8")


if __name__ == "__main__":
    main()
