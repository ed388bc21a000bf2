"""
The settings by which recordings are decoded and turned into features.

One object holds them: the check of files and its memory, the transform and a new model's feature extractor read it.
"""

from dataclasses import dataclass
from typing import Any

from transformers import AutoFeatureExtractor, SequenceFeatureExtractor

from hf_fer.recipe.arguments import RecipeError
from hf_fer.task.base import Task
from hf_fer.task.settings import check_settled
from hf_fer.weights.starting_points import read

from ..sound_speech_to_text import DECODER_VERSION, MediaLimits
from .model import EXTRACTORS, MEL_BINS, WINDOW_MS, new_extractor

MIN_SECONDS = 0.05


@dataclass(frozen=True)
class SoundSettings:
    """
    Settings of a recipe, with those that a checkpoint fixes.

    Args:
        sampling_rate: Rate in Hz to which sound is resampled.
        max_seconds: Largest length of a recording.
        features: Log-mel features of a new model, one of `FEATURES`; of a checkpoint, the name of its extractor's
            class where that is none of them.
        mel_bins: Number of log-mel bands; of a checkpoint, the size of its extractor's features.
        window_ms: Length of a Fourier transform's window in ms; 0 for a checkpoint that takes samples.
    """

    sampling_rate: int = 16000
    max_seconds: float = 30.0
    features: str = "parakeet"
    mel_bins: int = MEL_BINS
    window_ms: float = WINDOW_MS

    @classmethod
    def of(cls, task: Task) -> "SoundSettings":
        """
        The settings of a task.

        Raises:
            RecipeError: the recipe sets a field to another value than the checkpoint was trained with.
        """
        args, path = task.data_args, task.model_args.model_name_or_path
        if path is None:
            model = task.model_args
            return cls(args.sampling_rate, args.max_seconds, model.features, model.mel_bins, model.window_ms)
        extractor = checkpoint_extractor(path)
        names = (name for name, kind in EXTRACTORS.items() if type(extractor) is kind)
        features = next(names, type(extractor).__name__)
        rate = extractor.sampling_rate
        window_ms = round(1000 * getattr(extractor, "win_length", 0) / rate, 1)
        found = cls(rate, args.max_seconds, features, extractor.feature_size, window_ms)
        check_settled(task, path, found.settled)
        return found

    @property
    def settled(self) -> dict[str, Any]:
        """Fields of a recipe that a checkpoint fixes, with their values."""
        fields = ("sampling_rate", "features", "mel_bins", "window_ms")
        return {name: getattr(self, name) for name in fields}

    @property
    def limits(self) -> MediaLimits:
        """What a recording may be."""
        return MediaLimits(self.max_seconds)

    @property
    def check_key(self) -> dict[str, Any]:
        """The settings that decide whether a file can be used, and how long its sound is."""
        return {
            "decoder": DECODER_VERSION,
            "sampling_rate": self.sampling_rate,
            "min_seconds": MIN_SECONDS,
            "max_seconds": self.max_seconds,
        }

    def extractor(self) -> SequenceFeatureExtractor:
        """A new model's feature extractor; raises `RecipeError` where the rate is too low for the features."""
        try:
            return new_extractor(self.sampling_rate, self.features, self.mel_bins, self.window_ms)
        except ValueError as error:
            raise RecipeError(f"features: {error}.") from error


def checkpoint_extractor(path: str) -> SequenceFeatureExtractor:
    """The feature extractor of a checkpoint."""
    return read(AutoFeatureExtractor.from_pretrained, path)
