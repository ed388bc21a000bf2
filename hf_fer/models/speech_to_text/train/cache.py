"""A cache of decoded recordings: `float32 (samples,)`, mono, at the rate of the recipe."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from transformers import PreTrainedModel

from hf_fer.data.cache import ArrayCache
from hf_fer.data.loading import LoadedData
from hf_fer.task.base import Task

from ..sound_speech_to_text import UnusableMediaError, load_audio
from .preprocessing import SoundSettings

PROBED_FILES = 4
"""Number of files that are decoded to estimate the mean size of an array."""


class DecodedRecordings:
    """
    Recordings that are decoded once and then read from the cache.

    Args:
        settings: Rate and limits of the sound.
        workers: Number of threads that decode.
        main_process, disable_tqdm: See `ArrayCache.build`.
    """

    def __init__(self, settings: SoundSettings, *, workers: int, main_process: bool, disable_tqdm: bool):
        self.settings = settings
        self.workers = workers
        self.display = {"main_process": main_process, "disable_tqdm": disable_tqdm}
        self.samples = ArrayCache("speech_samples", settings.check_key, "float32")

    def fill(self, paths: Iterable[str]) -> None:
        """Decode the files that the cache lacks; files that cannot be used stay out of it."""
        missing = self.samples.missing(paths)
        if missing:
            self.samples.build(missing, self._decoded, item_bytes=self._item_bytes(missing), **self.display)

    def plan(self, paths: Iterable[str]) -> str:
        """Describes the disk space that `fill` needs."""
        missing = self.samples.missing(paths)
        return self.samples.plan(missing, self._item_bytes(missing))

    def load(self, path: str) -> np.ndarray:
        """A copy of a file's samples; a file that the cache lacks is decoded, as by `load_audio`."""
        if path in self.samples:
            return self.samples[path].copy()
        return load_audio(path, self.settings.sampling_rate, self.settings.limits)

    def _decoded(self, paths: list[str]) -> Iterator[np.ndarray | None]:
        def attempt(path: str) -> np.ndarray | None:
            try:
                return load_audio(path, self.settings.sampling_rate, self.settings.limits)
            except UnusableMediaError:
                return None

        with ThreadPoolExecutor(self.workers) as pool:
            yield from pool.map(attempt, paths)

    def _item_bytes(self, paths: list[str]) -> int:
        """Mean size of the arrays of a few files."""
        probed = self._decoded(paths[:: max(1, len(paths) // PROBED_FILES)][:PROBED_FILES])
        sizes = [array.nbytes for array in probed if array is not None]
        return int(np.mean(sizes)) if sizes else 1


def decoded_recordings(task: Task) -> DecodedRecordings | None:
    """The cache of the recipe, or `None` if it asks for none."""
    if task.data_args.cache == "none":
        return None
    return DecodedRecordings(
        SoundSettings.of(task),
        workers=task.data_args.check_workers,
        main_process=task.training_args.local_process_index == 0,
        disable_tqdm=task.training_args.disable_tqdm,
    )


class RecordingCaches:
    """
    The cache of a recipe, which loading the data has filled, except in a dry run; see `hf_fer.task.base.Caches`.

    Args:
        decoded: The cache.
        data: The loaded data.
    """

    def __init__(self, decoded: DecodedRecordings, data: LoadedData):
        self.decoded = decoded
        self.data = data

    def plan(self, model: PreTrainedModel) -> list[str]:
        """Describes the disk space that loading the data needs."""
        return [self.decoded.plan([path for split in self.data.splits.values() for path in split["audio"]])]

    def fill(self, new_model: Callable[[], PreTrainedModel]) -> LoadedData:
        """Nothing is left to compute."""
        return self.data
