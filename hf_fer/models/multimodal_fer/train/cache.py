"""Caches of arrays that are computed once per clip: decoded media, and outputs of frozen encoders.

| cache | array of a file | depends on the file and |
| --- | --- | --- |
| `audio_samples` | `float32 (samples,)`, mono, trimmed | rate and trimming |
| `video_frames` | `uint8 (F, 3, H, W)`, cropped and resized | number, crop and size of the frames |
| `visual_features` | `float16 (F, N, D_v)`, the vision encoder's patches | frames, pixels, weights, compute type |
| `audio_hidden_states` | `float16 (T, D_a)`, the audio encoder's valid frames | log-mels, weights, compute type |
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_fer.adapters import base_model
from hf_fer.data.cache import ArrayCache, weights_digest
from hf_fer.data.loading import LoadedData
from hf_fer.data.skipped import SkippedFile, enforce_skip_limit
from hf_fer.recipe.arguments import TrainingArguments
from hf_fer.task.base import Task
from hf_fer.task.settings import skipped_file

from ..decoding_multimodal_fer import UnusableMediaError, is_feature_reference
from ..processing_multimodal_fer import MultimodalFerProcessor
from .arguments import MultimodalFerDataArguments
from .clips import unusable_reason
from .preprocessing import as_json, cache_keys

FEATURES = {"audio": "audio_hidden_states", "video": "visual_features"}
"""Model input that takes a frozen encoder's outputs, by modality."""

PROBED_FILES = 4
"""Number of files that are decoded to estimate the mean length of sound."""


def is_frozen(encoder: nn.Module | None) -> bool:
    """Whether the encoder exists and has no trainable weights."""
    return encoder is not None and not any(parameter.requires_grad for parameter in encoder.parameters())


def resized(processor: MultimodalFerProcessor, frames: np.ndarray) -> np.ndarray:
    """Frames `(F, H, W, 3)` resized for the model, `uint8 (F, 3, height, width)`; resizing again has no effect."""
    channels_first = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    return processor.image_processor(
        channels_first, return_tensors="pt", input_data_format="channels_first", do_rescale=False, do_normalize=False
    )["pixel_values"].numpy()


class DecodedClips:
    """
    Sound and frames of files, decoded once and cached. Decoding also checks that a file can be used.

    Args:
        processor: Decodes, crops and resizes.
        workers: Number of threads.
        main_process, disable_tqdm: See `ArrayCache.build`.
    """

    def __init__(self, processor: MultimodalFerProcessor, *, workers: int, main_process: bool, disable_tqdm: bool):
        self.processor = processor
        self.workers = workers
        self.display = {"main_process": main_process, "disable_tqdm": disable_tqdm}
        keys = cache_keys(processor)
        self.caches = {
            "audio": ArrayCache("audio_samples", keys["audio_samples"], "float32"),
            "video": ArrayCache("video_frames", keys["video_frames"], "uint8"),
        }

    def reasons(self, items: list[tuple[str, str]]) -> list[str | None]:
        """Why each `(path, modality)` cannot be used, or `None`, in order; usable media are cached."""
        features = [item for item in items if is_feature_reference(item[0])]
        reasons = {item: unusable_reason(self.processor, *item) for item in features}
        for modality, cache in self.caches.items():
            paths = [path for path, wanted in items if wanted == modality and (path, wanted) not in reasons]
            missing = cache.missing(paths)
            if missing:
                decode = partial(self._decode_all, modality=modality, reasons=reasons)
                cache.build(paths, decode, item_bytes=self.item_bytes(modality, missing), **self.display)
        return [reasons.get(item) for item in items]

    def plan(self, paths: dict[str, list[str]]) -> list[str]:
        """Describes the disk space that caching files needs; `paths` by modality."""
        return [self.caches[name].plan(files, self.item_bytes(name, files)) for name, files in paths.items()]

    def item_bytes(self, modality: str, paths: list[str]) -> int:
        """Size of an array; of sound the mean of a few files."""
        if modality == "video":
            size = self.processor.image_processor.size
            return self.processor.num_frames * 3 * size["height"] * size["width"]
        arrays = self._decode_all(paths[:: max(1, len(paths) // PROBED_FILES)][:PROBED_FILES], modality, {})
        sizes = [array.nbytes for array in arrays if array is not None]
        return int(np.mean(sizes)) if sizes else 1

    def _decode(self, path: str, modality: str) -> np.ndarray:
        if modality == "audio":
            return self.processor.load_audio(path)
        return resized(self.processor, self.processor.load_video(path))

    def _decode_all(
        self, paths: list[str], modality: str, reasons: dict[tuple[str, str], str | None]
    ) -> Iterator[np.ndarray | None]:
        def attempt(path: str) -> np.ndarray | None:
            try:
                return self._decode(path, modality)
            except UnusableMediaError as error:
                reasons[path, modality] = error.reason
                return None

        # These threads already run in parallel, so each uses one thread of torch's. The setting also becomes the
        # default of threads that torch has not seen yet, so it is restored.
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(self.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(attempt, paths)
        finally:
            torch.set_num_threads(threads)


class EncodedClips:
    """
    Outputs of frozen encoders, computed once from decoded clips, in half precision if the recipe trains in it.

    Args:
        model: Model with the encoders; encoders that train, in full or by an adapter, are not cached.
        processor: Turns decoded clips into model inputs.
        decoded: Caches of decoded clips.
        args: Device, batch size (of evaluation) and precision.
        skipped_file: File that lists clips whose features are not finite.

    Attributes:
        caches: Caches by modality.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: MultimodalFerProcessor,
        decoded: DecodedClips,
        args: TrainingArguments,
        skipped_file: SkippedFile,
    ):
        self.model = base_model(model).base_model
        self.processor = processor
        self.decoded = decoded
        self.args = args
        self.skipped_file = skipped_file
        self.compute_type = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
        keys = cache_keys(processor)
        self.encoders = {
            modality: self.model.parts()[part]
            for modality, part in (("audio", "audio"), ("video", "vision"))
            if is_frozen(self.model.parts().get(part))
        }
        self.caches = {
            modality: ArrayCache(
                FEATURES[modality], {**keys[FEATURES[modality]], **self._encoder_facts(encoder)}, "float16"
            )
            for modality, encoder in self.encoders.items()
        }

    def _encoder_facts(self, encoder: PreTrainedModel) -> dict[str, Any]:
        compute = f"{encoder.dtype} under {self.compute_type}"
        return {"weights": weights_digest(encoder), "config": as_json(encoder.config), "compute": compute}

    def fill(self, paths: dict[str, list[str]]) -> None:
        """Compute missing outputs, `paths` by modality, and release the model, because training builds another."""
        compute = {"audio": self._audio_hidden_states, "video": self._visual_features}
        for modality, encoder in self.encoders.items():
            if self.caches[modality].missing(paths.get(modality, [])):
                home = encoder.device
                encoder.to(self.args.device)
                item_bytes = self.item_bytes(modality, paths[modality])
                self.caches[modality].build(
                    paths[modality], compute[modality], item_bytes=item_bytes, **self.decoded.display
                )
                encoder.to(home)
        self.encoders.clear()
        del self.model

    def plan(self, paths: dict[str, list[str]]) -> list[str]:
        """Describes the disk space that `fill` needs; `paths` by modality."""
        wanted = [(cache, name) for name, cache in self.caches.items() if name in paths]
        return [cache.plan(paths[name], self.item_bytes(name, paths[name])) for cache, name in wanted]

    def item_bytes(self, modality: str, paths: list[str]) -> int:
        """Size of an array; of sound the mean of a few files."""
        config = self.model.config
        if modality == "video":
            size, patch = self.processor.image_processor.size, config.vision_config.patch_size
            patches = (size["height"] // patch) * (size["width"] // patch)
            return 2 * self.processor.num_frames * patches * config.vision_config.hidden_size
        samples = self.decoded.item_bytes("audio", paths) // 4
        frames = samples // self.processor.feature_extractor.hop_length // config.audio_config.subsampling_factor
        return 2 * (frames + 1) * config.audio_config.hidden_size

    def _batches(self, paths: list[str]) -> Iterator[list[str]]:
        size = self.args.per_device_eval_batch_size
        return (paths[start : start + size] for start in range(0, len(paths), size))

    def _visual_features(self, paths: list[str]) -> Iterator[np.ndarray | None]:
        encoder, frames = self.encoders["video"], self.decoded.caches["video"]
        for batch in self._batches(paths):
            pixels = torch.cat(
                [self.processor.video_features(torch.from_numpy(frames[path].copy())) for path in batch]
            )
            with self._computing():
                patches = self.model.encode_pictures(pixels.to(encoder.device, encoder.dtype))
            for path, clip in zip(batch, patches.chunk(len(batch)), strict=True):
                yield self._stored(path, clip)

    def _audio_hidden_states(self, paths: list[str]) -> Iterator[np.ndarray | None]:
        encoder, samples = self.encoders["audio"], self.decoded.caches["audio"]
        for batch in self._batches(paths):
            examples = [{"input_features": self.processor.audio_features(samples[path])} for path in batch]
            inputs = self.processor.pad(examples).to(encoder.device)
            with self._computing():
                states, mask = self.model.encode_sound(
                    inputs["input_features"].to(encoder.dtype), inputs["attention_mask"]
                )
            for path, clip, length in zip(batch, states, mask.sum(dim=-1), strict=True):
                yield self._stored(path, clip[:length])

    @contextmanager
    def _computing(self) -> Iterator[None]:
        autocast = self.compute_type != torch.float32
        with torch.no_grad(), torch.autocast(self.args.device.type, self.compute_type, enabled=autocast):
            yield

    def _stored(self, path: str, states: Tensor) -> np.ndarray | None:
        stored = states.to(torch.float16)
        if stored.isfinite().all():
            return stored.cpu().numpy()
        reason = "an encoder's outputs for it are not finite, or too large for float16"
        self.skipped_file.append([{"path": path, "reason": reason}])
        return None


@dataclass(frozen=True)
class Stored:
    """Caches that are read in place of files: decoded clips, and outputs of frozen encoders."""

    decoded: DecodedClips | None = None
    encoded: EncodedClips | None = None

    def by_kind(self) -> dict[str, ArrayCache]:
        """The caches, by the kind of their arrays."""
        stages = [stage for stage in (self.decoded, self.encoded) if stage]
        return {cache.kind: cache for stage in stages for cache in stage.caches.values()}


def decoded_clips(
    processor: MultimodalFerProcessor, args: MultimodalFerDataArguments, training_args: TrainingArguments
) -> DecodedClips:
    """The caches of decoded media."""
    return DecodedClips(
        processor,
        workers=args.check_workers,
        main_process=training_args.local_process_index == 0,
        disable_tqdm=training_args.disable_tqdm,
    )


class ClipCaches:
    """
    The caches of a recipe, to be planned or filled; see `hf_fer.task.base.Caches`.

    Args:
        task: Task whose recipe sets `cache`.
        data: Data whose loading has filled the caches of decoded media.
        processor: Processor of the trained model.
    """

    def __init__(self, task: Task, data: LoadedData, processor: MultimodalFerProcessor):
        self.task = task
        self.data = data
        self.processor = processor
        self.paths = {
            modality: [
                path
                for split in data.splits.values()
                for path in split[modality]
                if path and not is_feature_reference(path)
            ]
            for modality in task.data_args.modalities
        }

    def plan(self, model: PreTrainedModel) -> list[str]:
        """Describes the disk space that loading the data and `fill` need."""
        decoded = decoded_clips(self.processor, self.task.data_args, self.task.training_args)
        lines = decoded.plan(self.paths)
        if self.task.data_args.cache == "decoded":
            return lines
        encoded = self._encoded(model, decoded)
        return [*lines, *encoded.plan(self.paths), *self._lost_augmentation(encoded)]

    def fill(self, new_model: Callable[[], PreTrainedModel]) -> LoadedData:
        """Compute outputs of frozen encoders for every clip; raises `DataError` where too many cannot be used."""
        data, args = self.data, self.task.data_args
        if args.cache == "decoded":
            return data
        encoded = self._encoded(new_model(), data.own.decoded)
        encoded.fill(self.paths)
        data.notes.extend(self._lost_augmentation(encoded))
        total = sum(len(split) for split in data.splits.values()) + len(data.skipped)
        enforce_skip_limit(skipped_file(self.task).read(), total, args.max_skipped_fraction)
        return replace(data, own=replace(data.own, encoded=encoded))

    def _encoded(self, model: PreTrainedModel, decoded: DecodedClips) -> EncodedClips:
        return EncodedClips(model, self.processor, decoded, self.task.training_args, skipped_file(self.task))

    def _lost_augmentation(self, encoded: EncodedClips) -> list[str]:
        if not (self.task.data_args.augment and self.task.training_args.do_train):
            return []
        lost = {"audio": "sound (gain, noise, shift, stretch, masks)", "video": "pictures (flip, colour, crop)"}
        return [
            f"No augmentation of {lost[modality]}: the frozen encoder's outputs were computed once and cached."
            for modality in encoded.caches
        ]
